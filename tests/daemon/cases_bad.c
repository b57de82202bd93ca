#include "fixture.h"
const struct test_case bad_cases[] = { { 0 } };
