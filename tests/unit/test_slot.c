// SPDX-License-Identifier: MIT
/* Description: slots are given once, counted, and come back. */
#include <errno.h>
#include <stdlib.h>

#include "slot.h"
#include "unit.h"

static int make(void **state)
{
	struct kvt_slots *s = malloc(sizeof(*s));

	*state = s;
	return s ? kvt_slots_init(s, 8) : -1;
}

static int unmake(void **state)
{
	kvt_slots_exit(*state);
	free(*state);
	return 0;
}

static void gives_the_wish(void **state)
{
	struct kvt_slots *s = *state;

	assert_int_equal(kvt_slot_get(s, 5), 5);
	assert_int_not_equal(kvt_slot_get(s, 5), 5);
	assert_int_equal(s->nr_free, 6);
}

static void gives_each_once(void **state)
{
	struct kvt_slots *s = *state;
	unsigned int seen = 0, i;

	for (i = 0; i < 8; i++)
		seen |= 1u << kvt_slot_get(s, 1000);
	assert_int_equal(seen, 0xff);
	assert_int_equal(kvt_slot_get(s, 0), KVT_SLOT_NONE);
	kvt_slot_put(s, 3);
	assert_int_equal(kvt_slot_get(s, 7), 3);
}

static void claims_exactly(void **state)
{
	struct kvt_slots *s = *state;

	assert_int_equal(kvt_slot_claim(s, 2), 0);
	assert_int_equal(kvt_slot_claim(s, 2), -EBUSY);
	assert_int_equal(kvt_slot_claim(s, 8), -EINVAL);
	assert_int_equal(kvt_slot_claim(s, KVT_SLOT_NONE), -EINVAL);
	assert_int_equal(s->nr_free, 7);
}

static void counts_users(void **state)
{
	struct kvt_slots *s = *state;
	uint32_t slot = kvt_slot_get(s, 0);

	assert_false(kvt_slot_shared(s, slot));
	assert_int_equal(kvt_slot_share(s, slot), 0);
	assert_true(kvt_slot_shared(s, slot));
	kvt_slot_put(s, slot);
	assert_int_equal(s->nr_free, 7);
	kvt_slot_put(s, slot);
	assert_int_equal(s->nr_free, 8);
}

static void counts_up_to_the_limit(void **state)
{
	struct kvt_slots *s = *state;
	uint32_t slot = kvt_slot_get(s, 0), i;

	for (i = 1; i < UINT16_MAX; i++)
		assert_int_equal(kvt_slot_share(s, slot), 0);
	assert_int_equal(kvt_slot_share(s, slot), -EMLINK);
	for (i = 1; i < UINT16_MAX; i++)
		kvt_slot_put(s, slot);
	assert_false(kvt_slot_shared(s, slot));
}

static void none_at_all(void **state)
{
	struct kvt_slots s;

	(void)state;
	assert_int_equal(kvt_slots_init(&s, 0), 0);
	assert_int_equal(kvt_slot_get(&s, 0), KVT_SLOT_NONE);
	kvt_slots_exit(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(gives_the_wish, make, unmake),
		cmocka_unit_test_setup_teardown(gives_each_once, make, unmake),
		cmocka_unit_test_setup_teardown(claims_exactly, make, unmake),
		cmocka_unit_test_setup_teardown(counts_users, make, unmake),
		cmocka_unit_test_setup_teardown(counts_up_to_the_limit, make, unmake),
		cmocka_unit_test(none_at_all),
	};

	return cmocka_run_group_tests_name("slot", tests, NULL, NULL);
}
