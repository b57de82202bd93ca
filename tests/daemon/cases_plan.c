#include "fixture.h"
const struct test_case plan_cases[] = { { 0 } };
