// SPDX-License-Identifier: MIT
/* Description: the ring of foreseen blocks: what it learns, keeps and forgets. */
#include <stdlib.h>
#include <string.h>

#include "order.h"
#include "unit.h"

#define NR 64
#define AGAIN 4

static int make(void **state)
{
	struct kvt_order *o = malloc(sizeof(*o));

	*state = o;
	return o ? kvt_order_init(o, NR) : -1;
}

static int unmake(void **state)
{
	kvt_order_exit(*state);
	free(*state);
	return 0;
}

static enum kvt_touch touch(struct kvt_order *o, uint32_t block)
{
	uint32_t distance;

	return kvt_order_touch(o, block, AGAIN, &distance);
}

/* Both directions agree, @count blocks are linked, and the lag is what the tail says. */
static void check_ring(const struct kvt_order *o)
{
	uint32_t at = o->cursor, linked = 0, b, steps = 0;

	for (b = 0; b < NR; b++)
		linked += kvt_order_has(o, b);
	assert_int_equal(linked, o->count);
	if (!o->count) {
		assert_int_equal(o->cursor, KVT_ORDER_NONE);
		assert_int_equal(o->tail, KVT_ORDER_NONE);
		return;
	}
	do {
		assert_int_equal(o->prev[o->next[at]], at);
		at = o->next[at];
		steps++;
	} while (at != o->cursor && steps <= NR);
	assert_int_equal(steps, o->count);
	for (at = o->tail, steps = 0; at != o->cursor && steps <= NR; at = o->next[at])
		steps++;
	assert_int_equal(steps, o->lag);
	assert_true(o->lag < o->count);
}

static void learns_a_cycle(void **state)
{
	static const uint32_t step[] = { 3, 40, 7, 8, 22, 60, 1, 33 };
	struct kvt_order *o = *state;
	uint32_t i, pass;

	for (i = 0; i < 8; i++)
		assert_int_equal(touch(o, step[i]), KVT_TOUCH_NEW);
	/* First guesses put neighbours together; another round corrects them. */
	for (pass = 0; pass < 2; pass++)
		for (i = 0; i < 8; i++)
			touch(o, step[i]);
	check_ring(o);
	for (i = 0; i < 8; i++) {
		assert_int_equal(touch(o, step[i]), KVT_TOUCH_AHEAD);
		assert_int_equal(o->cursor, step[i]);
		assert_int_equal(o->next[step[i]], step[(i + 1) % 8]);
	}
}

static void skips_what_was_present(void **state)
{
	struct kvt_order *o = *state;
	uint32_t b;

	for (b = 0; b < 32; b++)
		touch(o, b);
	assert_int_equal(touch(o, 0), KVT_TOUCH_AHEAD);
	/* Nothing in between was absent, so nothing in between faulted. */
	assert_int_equal(touch(o, 20), KVT_TOUCH_AHEAD);
	assert_int_equal(o->cursor, 20);
	check_ring(o);
}

static bool always(void *ctx, uint32_t block)
{
	(void)ctx;
	(void)block;
	return true;
}

static void moves_the_unforeseen(void **state)
{
	struct kvt_order *o = *state;
	uint32_t b;

	for (b = 0; b < 48; b++)
		touch(o, b);
	touch(o, 0);
	o->absent = always; /* 38 absent blocks cannot have been skipped */
	assert_int_equal(touch(o, 39), KVT_TOUCH_MOVED);
	assert_int_equal(o->next[0], 39);
	assert_int_equal(o->next[39], 1);
	assert_int_equal(o->next[38], 40);
	check_ring(o);
}

static void knows_a_return(void **state)
{
	struct kvt_order *o = *state;
	uint32_t b, distance = 0;

	for (b = 0; b < 16; b++)
		touch(o, b);
	assert_int_equal(kvt_order_touch(o, 13, AGAIN, &distance), KVT_TOUCH_AGAIN);
	assert_int_equal(distance, 2);
	assert_int_equal(o->cursor, 15);
	check_ring(o);
}

static void keeps_the_window(void **state)
{
	struct kvt_order *o = *state;
	uint32_t b;

	for (b = 0; b < 32; b++)
		touch(o, b);
	kvt_order_set_reuse(o, 6);
	check_ring(o);
	assert_int_equal(o->lag, 6);
	assert_int_equal(o->tail, 25);
	kvt_order_set_reuse(o, 2);
	check_ring(o);
	assert_int_equal(o->lag, 2);
	kvt_order_set_reuse(o, 1000); /* never the whole ring: the cursor is not behind itself */
	check_ring(o);
	assert_int_equal(o->lag, 31);
}

static void random_use(void **state)
{
	struct kvt_order *o = *state;
	unsigned int seed = 5;
	int i;

	for (i = 0; i < 20000; i++) {
		uint32_t b = (uint32_t)rand_r(&seed) % NR;

		switch (rand_r(&seed) % 8) {
		case 0:
			kvt_order_remove(o, b);
			assert_false(kvt_order_has(o, b));
			break;
		case 1:
			kvt_order_set_reuse(o, b);
			break;
		default:
			touch(o, b);
			assert_true(kvt_order_has(o, b));
		}
		check_ring(o);
	}
}

static void empties(void **state)
{
	struct kvt_order *o = *state;
	uint32_t b;

	for (b = 0; b < 10; b++)
		touch(o, b);
	for (b = 0; b < 10; b++) {
		kvt_order_remove(o, b);
		check_ring(o);
	}
	assert_int_equal(touch(o, 4), KVT_TOUCH_NEW);
	check_ring(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(learns_a_cycle, make, unmake),
		cmocka_unit_test_setup_teardown(skips_what_was_present, make, unmake),
		cmocka_unit_test_setup_teardown(moves_the_unforeseen, make, unmake),
		cmocka_unit_test_setup_teardown(knows_a_return, make, unmake),
		cmocka_unit_test_setup_teardown(keeps_the_window, make, unmake),
		cmocka_unit_test_setup_teardown(random_use, make, unmake),
		cmocka_unit_test_setup_teardown(empties, make, unmake),
	};

	return cmocka_run_group_tests_name("order", tests, NULL, NULL);
}
