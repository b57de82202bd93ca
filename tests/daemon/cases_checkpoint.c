#include "fixture.h"
const struct test_case checkpoint_cases[] = { { 0 } };
