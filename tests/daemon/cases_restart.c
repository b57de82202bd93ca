#include "fixture.h"
const struct test_case restart_cases[] = { { 0 } };
