// SPDX-License-Identifier: MIT
/* Description: CRC32C against the RFC's vectors and a bit-by-bit model. */
#include <stdlib.h>
#include <string.h>

#include "crc.h"
#include "unit.h"

/* The definition, one bit at a time: reflected polynomial 0x1edc6f41. */
static uint32_t model(const unsigned char *p, size_t len)
{
	uint32_t crc = ~0u;
	int bit;

	while (len--) {
		crc ^= *p++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return ~crc;
}

static void rfc_vectors(void **state)
{
	unsigned char bytes[32];
	int i;

	(void)state;
	assert_int_equal(kvt_crc32c("123456789", 9), 0xe3069283);
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(kvt_crc32c(bytes, 32), 0x8a9136aa);
	memset(bytes, 0xff, sizeof(bytes));
	assert_int_equal(kvt_crc32c(bytes, 32), 0x62a8ab43);
	for (i = 0; i < 32; i++)
		bytes[i] = (unsigned char)i;
	assert_int_equal(kvt_crc32c(bytes, 32), 0x46dd794e);
	assert_int_equal(kvt_crc32c(bytes, 0), 0);
}

/* Every alignment and the lengths around the variants' unrolled loops. */
static void equals_model(void **state)
{
	static unsigned char bytes[9000];
	size_t len, at;
	unsigned int seed = 1;

	(void)state;
	for (at = 0; at < sizeof(bytes); at++)
		bytes[at] = (unsigned char)rand_r(&seed);
	for (len = 0; len < 600; len++)
		assert_int_equal(kvt_crc32c(bytes + len % 17, len), model(bytes + len % 17, len));
	for (len = 4090; len < 4110; len++)
		assert_int_equal(kvt_crc32c(bytes + 3, len), model(bytes + 3, len));
}

static void sees_each_bit(void **state)
{
	static unsigned char block[65536];
	uint32_t whole = kvt_crc32c(block, sizeof(block));
	size_t bit;

	(void)state;
	for (bit = 0; bit < sizeof(block) * 8; bit += 977) {
		block[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_int_not_equal(kvt_crc32c(block, sizeof(block)), whole);
		block[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
	assert_int_equal(kvt_crc32c(block, sizeof(block)), whole);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rfc_vectors),
		cmocka_unit_test(equals_model),
		cmocka_unit_test(sees_each_bit),
	};

	return cmocka_run_group_tests_name("crc", tests, NULL, NULL);
}
