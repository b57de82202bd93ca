// SPDX-License-Identifier: MIT
/* Description: GGUF headers, cut off and corrupted at every byte. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gguf.h"
#include "unit.h"

static unsigned char good[4096];
static size_t nr_good;
static char path[] = "/tmp/kvtier-gguf-XXXXXX";
static int file = -1;
static size_t file_bytes;

static void put(const void *bytes, size_t nr)
{
	memcpy(good + nr_good, bytes, nr);
	nr_good += nr;
}

static void put_u32(uint32_t value)
{
	put(&value, sizeof(value));
}

static void put_u64(uint64_t value)
{
	put(&value, sizeof(value));
}

static void put_string(const char *text)
{
	put_u64(strlen(text));
	put(text, strlen(text));
}

static void put_number(const char *key, uint32_t value)
{
	put_string(key);
	put_u32(4);
	put_u32(value);
}

/* One of every kind of value. */
static int make(void **state)
{
	(void)state;
	file = mkstemp(path);
	if (file < 0)
		return -1;
	put_u32(0x46554747);
	put_u32(3);
	put_u64(0);
	put_u64(9);
	put_string("general.architecture");
	put_u32(8);
	put_string("llama");
	put_string("tokenizer.ggml.tokens");
	put_u32(9);
	put_u32(8);
	put_u64(3);
	put_string("a");
	put_string("");
	put_string("ccc");
	put_string("tokenizer.ggml.scores");
	put_u32(9);
	put_u32(6);
	put_u64(2);
	put_u64(0);
	put_number("llama.block_count", 4);
	put_number("llama.attention.head_count", 8);
	put_number("llama.embedding_length", 512);
	put_number("llama.context_length", 2048);
	put_string("llama.attention.head_count_kv");
	put_u32(9);
	put_u32(4);
	put_u64(4);
	put_u32(2);
	put_u32(2);
	put_u32(0);
	put_u32(2);
	put_string("general.name");
	put_u32(8);
	put_string("a name");
	return 0;
}

static int clean(void **state)
{
	(void)state;
	close(file);
	return unlink(path);
}

static int parse(const unsigned char *bytes, size_t nr, struct gguf_model *model, char *why,
		 size_t len)
{
	assert_int_equal(pwrite(file, bytes, nr, 0), nr);
	if (nr < file_bytes)
		assert_int_equal(ftruncate(file, (off_t)nr), 0);
	file_bytes = nr;
	why[0] = '\0';
	return gguf_read(path, model, why, len);
}

static void understands(void **state)
{
	static struct gguf_model m;
	char why[256];

	(void)state;
	assert_int_equal(parse(good, nr_good, &m, why, sizeof(why)), 0);
	assert_string_equal(m.architecture, "llama");
	assert_string_equal(m.name, "a name");
	assert_int_equal(m.layers, 4);
	assert_int_equal(m.kv_heads[0], 2);
	assert_int_equal(m.kv_heads[2], 0);
	assert_int_equal(m.key_length, 64);
	assert_int_equal(m.value_length, 64);
	assert_int_equal(m.context, 2048);
}

/* Every shorter file is refused, in words of one line. */
static void cut_off(void **state)
{
	static struct gguf_model m;
	char why[256];
	size_t n;

	(void)state;
	for (n = nr_good; n--;) {
		assert_int_not_equal(parse(good, n, &m, why, sizeof(why)), 0);
		assert_true(strlen(why) > 10);
		assert_null(strchr(why, '\n'));
	}
}

/* Every byte is made every power of two away from itself, and 0, and 255. */
static void corrupted(void **state)
{
	static struct gguf_model m;
	unsigned char bytes[sizeof(good)];
	char why[256];
	size_t i;
	int bit, ret;

	(void)state;
	for (i = 0; i < nr_good; i++) {
		for (bit = 0; bit < 10; bit++) {
			memcpy(bytes, good, nr_good);
			bytes[i] = bit == 8 ? 0 :
				   bit == 9 ? 255 :
					      (unsigned char)(good[i] ^ 1 << bit);
			ret = parse(bytes, nr_good, &m, why, sizeof(why));
			if (ret) {
				assert_true(strlen(why) > 10);
				assert_null(strchr(why, '\n'));
				continue;
			}
			assert_in_range(m.layers, 1, GGUF_LAYERS_MAX);
			assert_in_range(m.key_length, 1, 65536);
			assert_in_range(m.value_length, 1, 65536);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(understands),
		cmocka_unit_test(cut_off),
		cmocka_unit_test(corrupted),
	};

	return cmocka_run_group_tests_name("gguf", tests, make, clean);
}
