// SPDX-License-Identifier: MIT
/*
 * Two engines decode over caches that do not fit beside each other; eight sessions are
 * idle, and have a turn from time to time.  All share the memory that kvtierd has to
 * give, a quarter of what they would need: an engine's cache is 1 1/2 times that memory,
 * a session's an eighth of it.
 *
 * Prints "NAME VALUE" lines.  An engine's bound is the larger of its step with all in
 * memory and of what a step must read (its cache less half the memory) at half the rate
 * of the disk.  Disks of machines that others use too change from second to second: so
 * the steps that count are in slices, and the rate is measured between them.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "share.h"

#define RATE_S 0.5
#define SLICES_MAX 64
#define PAUSE_MS 200 /* between turns */

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void die(const char *fmt, ...)
{
	va_list args;

	fputs("bench-share: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double median(double *values, uint32_t nr)
{
	qsort(values, nr, sizeof(*values), compare);
	return nr % 2 ? values[nr / 2] : (values[nr / 2 - 1] + values[nr / 2]) / 2;
}

static void sample(const char *name, double value)
{
	printf("share.%s %.6g\n", name, value);
	fflush(stdout);
}

/* ---- processes ---------------------------------------------------------------------------- */

static pid_t start_engine(struct share *s, int number)
{
	pid_t pid = fork();

	if (pid < 0)
		die("cannot start a process");
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	engine_run(s, &s->engines[number], number);
	exit(0);
}

/* Neither waits for ever for an engine that failed, nor leaves one behind. */
static void check_engines(const pid_t *pids)
{
	int i;

	for (i = 0; i < ENGINES; i++)
		if (waitpid(pids[i], NULL, WNOHANG))
			die("engine %d ended early", i);
}

static void engines_in_stride(struct share *s, const pid_t *pids)
{
	int i;

	for (i = 0; i < ENGINES; i++)
		while (!__atomic_load_n(&s->engines[i].ready, __ATOMIC_ACQUIRE)) {
			check_engines(pids);
			usleep(10000);
		}
}

static void pass_time(const pid_t *pids, double seconds)
{
	double until = now() + seconds;

	while (now() < until) {
		check_engines(pids);
		usleep(10000);
	}
}

static void hold_engines(struct share *s, const pid_t *pids)
{
	int i;

	s->phase = HOLD;
	for (i = 0; i < ENGINES; i++)
		while (!__atomic_load_n(&s->engines[i].held, __ATOMIC_ACQUIRE)) {
			check_engines(pids);
			usleep(1000);
		}
}

static void end_engines(struct share *s, const pid_t *pids)
{
	int i, status;

	s->phase = END;
	for (i = 0; i < ENGINES; i++)
		if (waitpid(pids[i], &status, 0) != pids[i] || status)
			die("engine %d failed", i);
}

/* ---- figures ------------------------------------------------------------------------------ */

/* A turn of each session, and a plain read of as many bytes before and after it. */
static void turns(struct turn *sessions, struct reader *reader, const char *when)
{
	double ratios[SESSIONS], tokens[SESSIONS], reads[SESSIONS];
	char name[64];
	int i;

	usleep(PAUSE_MS * 1000);
	for (i = 0; i < SESSIONS; i++) {
		struct turn *t = &sessions[i];

		reads[i] = reader_read(reader, t->model.bytes);
		tokens[i] = session_turn(t);
		reads[i] = (reads[i] + reader_read(reader, t->model.bytes)) / 2;
		session_idle(t);
		ratios[i] = tokens[i] / reads[i];
		fprintf(stderr, "session %d%s: token %.1f ms, plain read %.1f ms\n", i, when,
			1000 * tokens[i], 1000 * reads[i]);
		usleep(PAUSE_MS * 1000);
	}
	snprintf(name, sizeof(name), "session.vs_read%s", when);
	sample(name, median(ratios, SESSIONS));
	snprintf(name, sizeof(name), "session.vs_read_worst%s", when);
	sample(name, ratios[SESSIONS - 1]); /* median() has sorted them */
	snprintf(name, sizeof(name), "session.token_ms%s", when);
	sample(name, 1000 * median(tokens, SESSIONS));
	snprintf(name, sizeof(name), "session.read_ms%s", when);
	sample(name, 1000 * median(reads, SESSIONS));
}

/* Bytes of a step that are not in memory, if each has its share of it. */
static double bytes_to_read(const struct share *s)
{
	const struct options *e = &s->engine;

	return (double)e->layers * e->tokens * 2 * e->kv_heads * e->dim * 2 -
	       (double)s->dram / ENGINES;
}

/* What a step cannot be faster than, while a disk of this rate is shared. */
static double bound(const struct share *s, double compute, double raw)
{
	double disk = bytes_to_read(s) / (raw / ENGINES);

	return compute > disk ? compute : disk;
}

/* All sessions idle: slices of steps, and the disk's rate around each. */
static void quiet(struct share *s, const pid_t *pids, struct reader *reader, double compute)
{
	double pct[ENGINES][SLICES_MAX] = { 0 }, rates[SLICES_MAX] = { 0 };
	double steps[SLICES_MAX] = { 0 }, ratio[SLICES_MAX] = { 0 };
	double before, after, a, b;
	uint32_t k, i;

	hold_engines(s, pids);
	reader_choose(reader);
	before = reader_rate(reader, RATE_S);
	for (k = 0; k < s->slices; k++) {
		double step[ENGINES];

		s->phase = QUIET;
		pass_time(pids, s->slice_s);
		hold_engines(s, pids);
		after = reader_rate(reader, RATE_S);
		rates[k] = (before + after) / 2;
		for (i = 0; i < ENGINES; i++) {
			struct engine *e = &s->engines[i];

			if (!e->nr)
				die("no step ended within %g s: give --seconds", s->slice_s);
			step[i] = median(e->seconds, (uint32_t)e->nr);
			pct[i][k] = 100 * bound(s, compute, rates[k]) / step[i];
		}
		steps[k] = step[0] > step[1] ? step[0] : step[1];
		ratio[k] = steps[k] / (step[0] < step[1] ? step[0] : step[1]);
		before = after;
	}
	a = median(pct[0], s->slices);
	b = median(pct[1], s->slices);
	sample("engine.pct_bound", a < b ? a : b);
	sample("engine.ratio", median(ratio, s->slices));
	sample("engine.step_ms", 1000 * median(steps, s->slices));
	sample("engine.all_memory_ms", 1000 * compute);
	sample("raw.MBps", median(rates, s->slices) / 1e6);
	sample("engine.bound_ms", 1000 * bound(s, compute, median(rates, s->slices)));
}

static void run(struct share *s)
{
	struct turn sessions[SESSIONS];
	struct reader *reader;
	struct kvt_client *c;
	pid_t pids[ENGINES];
	double compute;
	uint64_t hash;
	int i;

	for (i = 0; i < ENGINES; i++)
		pids[i] = start_engine(s, i);
	reader = reader_open(s->raw, s->dram);
	compute = resident_step(&s->engine, &hash);
	if (kvt_client_open(s->socket, &c))
		die("%s", kvt_error_detail());
	for (i = 0; i < SESSIONS; i++)
		session_open(&sessions[i], c, &s->session, i);
	s->phase = WARM;
	engines_in_stride(s, pids);
	quiet(s, pids, reader, compute);
	s->phase = TURNS;
	turns(sessions, reader, "");
	end_engines(s, pids);
	turns(sessions, reader, ".alone");
	for (i = 0; i < ENGINES; i++) {
		struct engine *e = &s->engines[i];

		if (e->nr_turns)
			sample("engine.step_ms.in_turns", 1000 * e->turns_s / (double)e->nr_turns);
		if (e->hash != hash)
			die("engine %d: other bits than with all in memory", i);
	}
	for (i = 0; i < SESSIONS; i++)
		session_close(&sessions[i]);
	kvt_client_close(c);
	reader_close(reader);
}

/* ---- options ------------------------------------------------------------------------------ */

static const struct option names[] = {
	{ "socket", required_argument, NULL, 's' },  { "raw", required_argument, NULL, 'r' },
	{ "mib", required_argument, NULL, 'm' },     { "threads", required_argument, NULL, 'j' },
	{ "seconds", required_argument, NULL, 'n' }, { "slices", required_argument, NULL, 'k' },
	{ "block-kib", required_argument, NULL, 'b' },
	{ NULL, 0, NULL, 0 },
};

static void parse(struct share *s, int c)
{
	unsigned long number = strtoul(optarg ? optarg : "", NULL, 10);

	switch (c) {
	case 's': s->socket = optarg; return;
	case 'r': s->raw = optarg; return;
	case 'm': s->dram = number << 20; return;
	case 'j': s->threads = (uint32_t)number; return;
	case 'n': s->slice_s = (double)number; return;
	case 'k': s->slices = (uint32_t)number; return;
	case 'b': s->engine.block_bytes = number << 10; return;
	default: die("see tests/bench/share.c for the options");
	}
}

/* Sizes that are whole blocks in each layer. */
static void fit(struct share *s)
{
	struct options *e = &s->engine;
	size_t token = 2ull * e->kv_heads * e->dim * 2 * e->layers;

	e->threads = s->threads;
	s->session = *e;
	e->tokens = (uint32_t)(3 * s->dram / 2 / token);
	s->session.tokens = (uint32_t)(s->dram / SESSIONS / token);
	if (!s->session.tokens || s->session.tokens * token / e->layers % e->block_bytes)
		die("--mib: a multiple of %zu is needed for blocks of %zu KiB",
		    SESSIONS * e->layers * e->block_bytes >> 20, e->block_bytes >> 10);
}

int main(int argc, char **argv)
{
	struct share *s =
		mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int c;

	if (s == MAP_FAILED)
		die("no memory");
	s->dram = 512 << 20;
	s->threads = 1;
	s->slice_s = 3;
	s->slices = 6;
	s->engine = (struct options){ .type = KVT_F16, .layers = 32, .q_heads = 32, .kv_heads = 8,
				      .dim = 128, .block_bytes = 256 << 10 };
	while ((c = getopt_long(argc, argv, "", names, NULL)) >= 0)
		parse(s, c);
	if (!s->slices || s->slices > SLICES_MAX)
		die("--slices: 1 to %d", SLICES_MAX);
	if (optind != argc || !s->socket || !s->raw)
		die("--socket and --raw are needed");
	fit(s);
	run(s);
	return 0;
}
