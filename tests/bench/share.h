/* SPDX-License-Identifier: MIT */
/*
 * bench-share: two engines and eight idle sessions over kvtierd, with a quarter of the
 * memory that all of them would need.
 *
 *	share.c		options; the order of a run; its figures
 *	share_engine.c	processes that decode step after step; turns of sessions
 *	share_read.c	plain O_DIRECT reads, which the figures are held against
 *	decode_model.c	the caches and a step over one (of bench-decode)
 */
#ifndef SHARE_H
#define SHARE_H

#include <kvtier_daemon.h>

#include "decode.h"

#define ENGINES 2
#define SESSIONS 8
#define STEPS 512 /* that are remembered of a slice */

enum phase {
	FILL, /* engines wait: sessions are being made */
	WARM, /* engines fill their caches and get into their stride */
	HOLD, /* they wait: the disk is measured */
	QUIET, /* all sessions idle: steps count */
	TURNS, /* sessions have their turns */
	END,
};

/* What an engine tells; in memory that is shared with it. */
struct engine {
	uint64_t ready; /* its stride is reached */
	uint64_t held; /* it waits in HOLD */
	uint64_t nr; /* steps of this slice, without its first */
	double seconds[STEPS];
	uint64_t nr_turns; /* ... while sessions had their turns */
	double turns_s;
	uint64_t hash;
};

struct share {
	const char *socket;
	const char *raw; /* file for plain reads */
	size_t dram; /* what all share */
	uint32_t threads; /* of an engine */
	double slice_s; /* how long steps count */
	uint32_t slices; /* ... so often, between measurements of the disk */
	struct options engine, session;
	volatile enum phase phase;
	struct engine engines[ENGINES];
};

/* share_engine.c */
struct turn {
	struct model model;
	struct place place;
	uint64_t hash; /* of the first turn; the others must have the same */
};

void engine_run(struct share *s, struct engine *e, int number);
/* A step with all of it in plain memory: the median's seconds, and the hash. */
double resident_step(const struct options *o, uint64_t *hash);
void session_open(struct turn *t, struct kvt_client *c, const struct options *o, int number);
/* From announcing the turn until its token is there. */
double session_turn(struct turn *t);
void session_idle(struct turn *t);
void session_close(struct turn *t);

/* share_read.c */
struct reader;
struct reader *reader_open(const char *path, size_t bytes);
/* Seconds that reading @bytes takes, the fastest way that was found. */
double reader_read(struct reader *r, size_t bytes);
/* The best of a few sizes and depths, from now on. */
void reader_choose(struct reader *r);
/* Bytes a second over @seconds. */
double reader_rate(struct reader *r, double seconds);
void reader_close(struct reader *r);

double median(double *values, uint32_t nr);

#endif
