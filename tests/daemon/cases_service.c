#include "fixture.h"
const struct test_case service_cases[] = { { 0 } };
