// SPDX-License-Identifier: MIT
/*
 * bench-decode - steps over a cache that is in one place; prints JSON: how long a step takes
 * (median), the hash of its outputs, and what the place has to say.
 */
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "decode.h"

#define STEPS_MAX 256

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void die(const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "bench-decode: ");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\n");
	exit(1);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, uint32_t nr)
{
	qsort(values, nr, sizeof(*values), by_value);
	return nr % 2 ? values[nr / 2] : (values[nr / 2 - 1] + values[nr / 2]) / 2;
}

static void run_steps(struct model *m, struct place *p, double *seconds)
{
	uint32_t i, all = m->o->warm + m->o->steps;
	uint64_t hash = 0;

	for (i = 0; i < all; i++) {
		double start;

		if (i == m->o->warm && p->begin)
			p->begin(p, m);
		start = now();
		if (model_step(m, p))
			die("step %u: %s", i, kvt_error_detail());
		if (i >= m->o->warm)
			seconds[i - m->o->warm] = now() - start;
		if (i && m->hash != hash)
			die("step %u: other bits than the step before", i);
		hash = m->hash;
	}
}

static void measure(const struct options *o)
{
	struct place *p = place_named(o->place);
	double seconds[STEPS_MAX] = { 0 };
	struct model m;
	double mean = 0;
	uint32_t i;

	if (!p)
		die("there is no place %s", o->place);
	model_init(&m, o);
	if (p->open(p, &m))
		die("%s: %s", o->place, kvt_error_detail());
	if (!p->attend) {
		printf("{\"bytes\":%zu}\n", m.bytes);
		return;
	}
	model_place(&m, p->base);
	if (strcmp(o->place, "map") && strcmp(o->place, "pread"))
		model_fill(&m, p->base);
	if (p->filled && p->filled(p, &m))
		die("%s", kvt_error_detail());
	run_steps(&m, p, seconds);
	for (i = 0; i < o->steps; i++)
		mean += seconds[i] / o->steps;
	printf("{\"place\":\"%s\",\"type\":\"%s\",\"bytes\":%zu,\"hash\":\"%016llx\",\"isa\":\"%s\","
	       "\"mean_s\":%.6f,\"step_s\":%.6f",
	       o->place, kvt_type_name(o->type), m.bytes, (unsigned long long)m.hash,
	       kvt_attend_isa(m.attend), mean, median(seconds, o->steps));
	if (p->report)
		p->report(p, &m, o->steps);
	printf("}\n");
	p->close(p, &m);
	model_exit(&m);
}

static const struct option names[] = {
	{ "path", required_argument, NULL, 'p' },    { "type", required_argument, NULL, 'y' },
	{ "layers", required_argument, NULL, 'l' },  { "tokens", required_argument, NULL, 'k' },
	{ "times", required_argument, NULL, 't' },   { "threads", required_argument, NULL, 'j' },
	{ "warm", required_argument, NULL, 'w' },    { "steps", required_argument, NULL, 's' },
	{ "ahead", required_argument, NULL, 'a' },   { "block-kib", required_argument, NULL, 'b' },
	{ "window-kib", required_argument, NULL, 'n' },
	{ "weights-mib", required_argument, NULL, 'm' }, { NULL, 0, NULL, 0 },
};

static void parse(struct options *o, int c)
{
	unsigned long number = strtoul(optarg ? optarg : "", NULL, 10);

	switch (c) {
	case 'p': o->path = optarg; return;
	case 'y':
		if (kvt_type_named(optarg) < 0)
			die("there is no type %s", optarg);
		o->type = (uint32_t)kvt_type_named(optarg);
		return;
	case 'l': o->layers = (uint32_t)number; return;
	case 'k': o->tokens = (uint32_t)number; return;
	case 't': o->times = (uint32_t)number; return;
	case 'j': o->threads = (uint32_t)number; return;
	case 'w': o->warm = (uint32_t)number; return;
	case 's': o->steps = (uint32_t)number; return;
	case 'a': o->ahead = (uint32_t)number; return;
	case 'b': o->block_bytes = number << 10; return;
	case 'n': o->window_bytes = number << 10; return;
	case 'm': o->weights_mib = number; return;
	default: die("see tests/bench/decode.c for the options");
	}
}

int main(int argc, char **argv)
{
	struct options o = { .path = ".", .type = KVT_F16, .layers = 32, .q_heads = 32,
			     .kv_heads = 8, .dim = 128, .tokens = 4096, .times = 4, .warm = 3,
			     .steps = 5, .ahead = 4, .block_bytes = 256 << 10 };
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) >= 0)
		parse(&o, c);
	if (optind != argc - 1)
		die("name one place: memory, stream, touch, write, map or pread");
	o.place = argv[optind];
	if (!o.layers || !o.tokens || !o.times || !o.steps || o.steps > STEPS_MAX)
		die("layers, tokens, times and steps (at most %d) must not be 0", STEPS_MAX);
	measure(&o);
	return 0;
}
