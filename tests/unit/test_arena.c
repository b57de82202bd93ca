// SPDX-License-Identifier: MIT
/* Description: frames of an arena never exceed its limit and are given back. */
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "unit.h"

#define BLOCK (64u << 10)

static int make(void **state)
{
	struct kvt_arena *a = malloc(sizeof(*a));

	*state = a;
	return a ? kvt_arena_init(a, BLOCK, 16, 6, -1) : -1;
}

static int unmake(void **state)
{
	kvt_arena_exit(*state);
	free(*state);
	return 0;
}

static void stops_at_the_limit(void **state)
{
	struct kvt_arena *a = *state;
	unsigned int seen = 0, i;
	bool fresh;

	for (i = 0; i < 6; i++) {
		uint32_t place = kvt_arena_take(a, &fresh);

		assert_true(place < 16);
		assert_true(fresh);
		seen |= 1u << place;
	}
	assert_int_equal(__builtin_popcount(seen), 6);
	assert_int_equal(kvt_arena_room(a), 0);
	assert_int_equal(kvt_arena_take(a, &fresh), KVT_PLACE_NONE);
	assert_int_equal(a->peak, 6);
}

static void reuses_what_is_ready(void **state)
{
	struct kvt_arena *a = *state;
	bool fresh;
	uint32_t place = kvt_arena_take(a, &fresh);

	memset(kvt_place_addr(a, place), 7, BLOCK);
	kvt_arena_drop(a, place);
	assert_int_equal(kvt_arena_take(a, &fresh), place);
	assert_false(fresh);
}

/* A frame that is mapped at a block's address still counts, wherever it is. */
static void counts_mapped_frames(void **state)
{
	struct kvt_arena *a = *state;
	bool fresh;
	int i;

	for (i = 0; i < 6; i++)
		kvt_arena_mapped(a, kvt_arena_take(a, &fresh));
	assert_int_equal(kvt_arena_take(a, &fresh), KVT_PLACE_NONE);
	kvt_arena_drop(a, kvt_arena_unmap_place(a));
	assert_int_equal(kvt_arena_room(a), 1);
	kvt_arena_lost(a);
	assert_int_equal(kvt_arena_room(a), 2);
}

/* The first that are in a row, and again when they have been given back one by one. */
static void finds_rows(void **state)
{
	struct kvt_arena *a = *state;
	bool fresh;

	assert_int_equal(kvt_arena_take(a, &fresh), 0);
	assert_int_equal(kvt_arena_take(a, &fresh), 1);
	assert_int_equal(kvt_arena_take(a, &fresh), 2);
	kvt_arena_mapped(a, 1);
	assert_int_equal(kvt_arena_unmap_row(a, 2), 3);
	assert_int_equal(kvt_arena_unmap_row(a, 1), 1);
	assert_int_equal(kvt_arena_unmap_row(a, 12), KVT_PLACE_NONE);
	kvt_arena_mapped(a, 3);
	kvt_arena_mapped(a, 2);
	assert_int_equal(kvt_arena_unmap_row(a, 3), 5);
	assert_int_equal(kvt_arena_unmap_row(a, 2), 2);
	assert_int_equal(a->nr_empty, 8);
	assert_int_equal(kvt_arena_unmap_place(a), 8);
}

static void trims_to_a_lower_limit(void **state)
{
	struct kvt_arena *a = *state;
	uint32_t places[6];
	bool fresh;
	int i;

	for (i = 0; i < 6; i++) {
		places[i] = kvt_arena_take(a, &fresh);
		memset(kvt_place_addr(a, places[i]), 7, BLOCK);
	}
	a->limit = 2;
	for (i = 0; i < 6; i++)
		kvt_arena_drop(a, places[i]);
	assert_true(a->nr_used + a->nr_ready <= 2);
	assert_int_equal(a->nr_ready + a->nr_empty, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(stops_at_the_limit, make, unmake),
		cmocka_unit_test_setup_teardown(reuses_what_is_ready, make, unmake),
		cmocka_unit_test_setup_teardown(counts_mapped_frames, make, unmake),
		cmocka_unit_test_setup_teardown(finds_rows, make, unmake),
		cmocka_unit_test_setup_teardown(trims_to_a_lower_limit, make, unmake),
	};

	return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
