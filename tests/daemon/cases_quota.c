#include "fixture.h"
const struct test_case quota_cases[] = { { 0 } };
