// SPDX-License-Identifier: MIT
/*
 * probe: what this machine's disk and memory give at best, as JSON.
 *
 * "probe read" keeps a queue of O_DIRECT reads of consecutive blocks of a file
 * busy through io_uring and starts over at its end; "probe dram" reads a buffer
 * far larger than the caches with one thread and with all.  The benchmarks'
 * bound is made of these figures, taken in the same run.
 */
#define _GNU_SOURCE
#include <cjson/cJSON.h>
#include <err.h>
#include <fcntl.h>
#include <getopt.h>
#include <liburing.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_MAX (64 << 20)
#define QUEUE_MAX 1024
#define HUGE_BYTES (2L << 20)

struct options {
	const char *file;
	long block, queue, into, bytes, threads;
	double seconds;
};

static const char usage[] =
	"usage: probe read --file FILE [--block BYTES] [--qd N] [--into BYTES] [--seconds S]\n"
	"       probe dram [--bytes BYTES] [--threads N] [--seconds S]\n"
	"  --file FILE      file or block device to read\n"
	"  --block BYTES    bytes of one read (1048576)\n"
	"  --qd N           reads under way at a time (8)\n"
	"  --into BYTES     memory that is read into, one part after the other (N blocks)\n"
	"  --seconds S      how long to measure (2)\n"
	"  --bytes BYTES    memory to read (268435456)\n"
	"  --threads N      threads of the second figure (all CPUs of this process)\n";

static const struct option long_options[] = {
	{ "file", required_argument, NULL, 'f' },
	{ "block", required_argument, NULL, 'b' },
	{ "qd", required_argument, NULL, 'q' },
	{ "into", required_argument, NULL, 'i' },
	{ "seconds", required_argument, NULL, 's' },
	{ "bytes", required_argument, NULL, 'n' },
	{ "threads", required_argument, NULL, 't' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static double number(const char *what, double min, double max)
{
	char *end;
	double value = strtod(optarg, &end);

	if (end == optarg || *end || !(value >= min && value <= max))
		errx(1, "--%s: \"%s\" is not a number from %.10g to %.10g", what, optarg, min, max);
	return value;
}

static int nr_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
}

static void take_option(struct options *o, int key)
{
	switch (key) {
	case 'f':
		o->file = optarg;
		break;
	case 'b':
		o->block = number("block", 4096, BLOCK_MAX);
		break;
	case 'q':
		o->queue = number("qd", 1, QUEUE_MAX);
		break;
	case 'i':
		o->into = number("into", 4096, 1e12);
		break;
	case 's':
		o->seconds = number("seconds", 0.01, 3600);
		break;
	case 'n':
		o->bytes = number("bytes", 4 << 20, 1e12);
		break;
	case 't':
		o->threads = number("threads", 1, 4096);
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	default:
		errx(1, "try probe --help");
	}
}

static void parse_options(struct options *o, int argc, char **argv)
{
	int key;

	*o = (struct options){ .block = 1 << 20, .queue = 8, .bytes = 256L << 20, .seconds = 2,
			       .threads = nr_cpus() };
	while ((key = getopt_long(argc, argv, "h", long_options, NULL)) != -1)
		take_option(o, key);
	if (optind + 1 < argc)
		errx(1, "unexpected argument \"%s\"; try probe --help", argv[optind + 1]);
	if (o->block % 4096)
		errx(1, "--block %ld is not a multiple of 4096", o->block);
}

static int print_json(cJSON *json)
{
	char *text = cJSON_Print(json);

	if (!text)
		err(1, "cannot write the result");
	puts(text);
	cJSON_free(text);
	cJSON_Delete(json);
	return 0;
}

static long file_blocks(int fd, const struct options *o)
{
	uint64_t bytes;
	struct stat st;

	if (fstat(fd, &st))
		err(1, "%s", o->file);
	bytes = st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &bytes))
		err(1, "%s: cannot read the device's size", o->file);
	if (bytes < (uint64_t)o->block)
		errx(1, "%s is smaller than one block of %ld bytes", o->file, o->block);
	return bytes / o->block;
}

struct reader {
	const struct options *options;
	struct io_uring ring;
	int fd;
	char *buffers;
	long nr_blocks, next;
	long nr_buffers, turn; /* two reads may meet in one: nobody looks at what they read */
	uint64_t bytes; /* read so far */
};

static void submit_read(struct reader *r)
{
	const struct options *o = r->options;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	io_uring_prep_read(sqe, r->fd, r->buffers + r->turn * o->block, o->block,
			   (uint64_t)r->next * o->block);
	r->next = (r->next + 1) % r->nr_blocks;
	r->turn = (r->turn + 1) % r->nr_buffers;
}

static void reap_read(struct reader *r)
{
	struct io_uring_cqe *cqe;
	int ret = io_uring_wait_cqe(&r->ring, &cqe);

	if (ret)
		errx(1, "io_uring: %s", strerror(-ret));
	if (cqe->res != r->options->block)
		errx(1, "%s: a read failed: %s", r->options->file,
		     cqe->res < 0 ? strerror(-cqe->res) : "the file became shorter");
	io_uring_cqe_seen(&r->ring, cqe);
	r->bytes += r->options->block;
}

static void submit(struct reader *r)
{
	int ret = io_uring_submit(&r->ring);

	if (ret < 0)
		errx(1, "io_uring: %s", strerror(-ret));
}

/* Bytes a second from the first submission to the last completion counted. */
static double read_rate(struct reader *r)
{
	long i, queue = r->options->queue;
	double start = now(), end = start + r->options->seconds, last = start, rate;

	for (i = 0; i < queue; i++)
		submit_read(r);
	submit(r);
	while (last < end) {
		reap_read(r);
		last = now();
		submit_read(r);
		submit(r);
	}
	rate = r->bytes / (last - start);
	for (i = 0; i < queue; i++)
		reap_read(r);
	return rate;
}

/* The fewer pages a read has, the less it costs: nobody reads faster than so. */
static void map_buffers(struct reader *r)
{
	const struct options *o = r->options;
	size_t bytes;

	r->nr_buffers = o->into / o->block > o->queue ? o->into / o->block : o->queue;
	bytes = (r->nr_buffers * o->block + HUGE_BYTES - 1) & -HUGE_BYTES;
	r->buffers = aligned_alloc(HUGE_BYTES, bytes);
	if (!r->buffers)
		err(1, "cannot allocate %ld buffers", r->nr_buffers);
	madvise(r->buffers, bytes, MADV_HUGEPAGE);
	memset(r->buffers, 1, bytes);
}

static int probe_read(const struct options *o)
{
	struct reader r = { .options = o };
	cJSON *json = cJSON_CreateObject();
	int ret;

	if (!o->file)
		errx(1, "--file is missing; try probe --help");
	r.fd = open(o->file, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (r.fd < 0)
		err(1, "cannot read %s with O_DIRECT", o->file);
	r.nr_blocks = file_blocks(r.fd, o);
	map_buffers(&r);
	ret = io_uring_queue_init(o->queue, &r.ring, 0);
	if (ret)
		errx(1, "io_uring is not available: %s", strerror(-ret));
	cJSON_AddNumberToObject(json, "bytes_per_s", read_rate(&r));
	cJSON_AddNumberToObject(json, "bytes", r.bytes);
	cJSON_AddNumberToObject(json, "block", o->block);
	cJSON_AddNumberToObject(json, "qd", o->queue);
	io_uring_queue_exit(&r.ring);
	free(r.buffers);
	close(r.fd);
	return print_json(json);
}

struct scan {
	pthread_t thread;
	const uint64_t *words;
	size_t nr;
	double seconds; /* wanted; then how long it took */
	uint64_t bytes, sum;
};

/* Four sums, so that additions do not wait for one another. */
static uint64_t sum_words(const uint64_t *at, size_t nr)
{
	uint64_t a = 0, b = 0, c = 0, d = 0;
	size_t i;

	for (i = 0; i + 4 <= nr; i += 4) {
		a += at[i];
		b += at[i + 1];
		c += at[i + 2];
		d += at[i + 3];
	}
	return a + b + c + d;
}

static void *scan_memory(void *arg)
{
	struct scan *s = arg;
	double start = now(), end = start + s->seconds;

	do {
		s->sum += sum_words(s->words, s->nr);
		s->bytes += s->nr * sizeof(*s->words);
	} while (now() < end);
	s->seconds = now() - start;
	return NULL;
}

/* Each thread reads its own part. */
static double dram_rate(const uint64_t *words, size_t nr, int threads, double seconds)
{
	struct scan *scans = calloc(threads, sizeof(*scans));
	uint64_t sum = 0;
	double rate = 0;
	int i;

	if (!scans)
		err(1, "calloc");
	for (i = 0; i < threads; i++) {
		scans[i] = (struct scan){ .words = words + nr / threads * i, .nr = nr / threads,
					  .seconds = seconds };
		if (pthread_create(&scans[i].thread, NULL, scan_memory, &scans[i]))
			errx(1, "cannot start %d threads", threads);
	}
	for (i = 0; i < threads; i++) {
		pthread_join(scans[i].thread, NULL);
		rate += scans[i].bytes / scans[i].seconds;
		sum += scans[i].sum;
	}
	/* The buffer holds ones: a scan that the compiler left out would show. */
	if (!sum)
		errx(1, "the memory scan read nothing");
	free(scans);
	return rate;
}

static int probe_dram(const struct options *o)
{
	cJSON *json = cJSON_CreateObject();
	uint64_t *words = aligned_alloc(HUGE_BYTES, o->bytes & -HUGE_BYTES);
	size_t nr = (o->bytes & -(2L << 20)) / sizeof(*words);

	if (!words)
		err(1, "cannot allocate %ld bytes", o->bytes);
	madvise(words, nr * sizeof(*words), MADV_HUGEPAGE);
	memset(words, 1, nr * sizeof(*words));
	cJSON_AddNumberToObject(json, "bytes_per_s_1", dram_rate(words, nr, 1, o->seconds));
	cJSON_AddNumberToObject(json, "bytes_per_s_n",
				dram_rate(words, nr, o->threads, o->seconds));
	cJSON_AddNumberToObject(json, "threads", o->threads);
	cJSON_AddNumberToObject(json, "bytes", nr * sizeof(*words));
	free(words);
	return print_json(json);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	struct options o;

	parse_options(&o, argc, argv);
	if (!strcmp(what, "read"))
		return probe_read(&o);
	if (!strcmp(what, "dram"))
		return probe_dram(&o);
	errx(1, "say what to probe: read or dram; try probe --help");
}
