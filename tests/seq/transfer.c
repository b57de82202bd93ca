// SPDX-License-Identifier: MIT
/* transfer: sequences handed over as streams, whole, cut, damaged, and by processes that die. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "model.h"

#define TIMEOUT_MS 60000

static const struct place_config small = { .blocks = 32, .dram = 8, .nvme = 64, .block_tokens = 4 };
static const struct place_config large = { .blocks = 400, .dram = 16, .nvme = 800, .layers = 4,
					   .block_tokens = 64, .kv_heads = 8, .dim = 16 };

static struct kvt_seq *story(const struct place *p, uint32_t number, uint32_t nr)
{
	struct kvt_seq *seq;

	CHECK_EQ(kvt_seq_create(p->cache, &seq), 0);
	story_append(seq, number, 0, nr);
	return seq;
}

/* The stream of a sequence, in a file that only memory holds. */
static int stream_of(const struct kvt_seq *seq)
{
	int fd = memfd_create("stream", MFD_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_EQ(kvt_seq_export(seq, fd, TIMEOUT_MS), 0);
	return fd;
}

static int import_at_start(const struct place *p, int fd, uint32_t flags, struct kvt_seq **seq)
{
	lseek(fd, 0, SEEK_SET);
	return kvt_seq_import(p->cache, fd, flags, TIMEOUT_MS, seq);
}

static void whole(const char *dir)
{
	struct kvt_seq *seq, *copy;
	struct place a, b;
	int fd;

	place_open(&a, dir, &large);
	place_open(&b, dir, &large);
	seq = story(&a, 7, 1000);
	CHECK_EQ(kvt_seq_place(seq, KVTIER_OP_DEMOTE, 0, KVT_ALL_LAYERS, 0, KVT_TO_END), 0);
	fd = stream_of(seq);
	CHECK_EQ(import_at_start(&b, fd, 0, &copy), 0);
	CHECK_EQ(kvt_seq_tokens(copy), 1000);
	CHECK_EQ(story_check(copy, 7, 0, 1000), 0);
	story_append(copy, 7, 1000, 100); /* it goes on there */
	CHECK_EQ(story_check(copy, 7, 0, 1100), 0);
	CHECK_EQ(story_check(seq, 7, 0, 1000), 0);
	kvt_seq_destroy(copy);
	kvt_seq_destroy(seq);
	close(fd);
	place_close(&a);
	place_close(&b);
}

static void untouched(const struct place *p, const struct kvt_cache_stats *before)
{
	struct kvt_cache_stats after;

	kvt_cache_stats(p->cache, &after);
	CHECK_EQ(after.sequences, before->sequences);
	CHECK_EQ(after.free_blocks, before->free_blocks);
}

static void cut_everywhere(const char *dir)
{
	struct kvt_cache_stats before;
	struct kvt_seq *seq, *copy;
	struct place a, b;
	off_t bytes, at;
	int fd;

	place_open(&a, dir, &small);
	place_open(&b, dir, &small);
	seq = story(&a, 1, 10);
	fd = stream_of(seq);
	bytes = lseek(fd, 0, SEEK_END);
	kvt_cache_stats(b.cache, &before);
	for (at = bytes - 1; at >= 0; at--) {
		CHECK_EQ(ftruncate(fd, at), 0);
		CHECK_ERR(import_at_start(&b, fd, 0, &copy), -EPIPE, "the stream ends");
		CHECK(!copy);
		untouched(&b, &before);
	}
	printf("# cut at each of %lld bytes\n", (long long)bytes);
	kvt_seq_destroy(seq);
	close(fd);
	place_close(&a);
	place_close(&b);
}

static void damaged_everywhere(const char *dir)
{
	struct kvt_cache_stats before;
	struct kvt_seq *seq, *copy;
	struct place a, b;
	unsigned char byte, wrong;
	off_t bytes, at;
	int fd, bit, ret;

	place_open(&a, dir, &small);
	place_open(&b, dir, &small);
	seq = story(&a, 1, 10);
	fd = stream_of(seq);
	bytes = lseek(fd, 0, SEEK_END);
	kvt_cache_stats(b.cache, &before);
	for (at = 0; at < bytes; at++) {
		CHECK_EQ(pread(fd, &byte, 1, at), 1);
		for (bit = 0; bit < 8; bit += 7) {
			wrong = byte ^ (unsigned char)(1 << bit);
			CHECK_EQ(pwrite(fd, &wrong, 1, at), 1);
			ret = import_at_start(&b, fd, 0, &copy);
			CHECK(ret == -EILSEQ || ret == -EPROTONOSUPPORT);
			CHECK(!copy && *kvt_error_detail());
			untouched(&b, &before);
		}
		CHECK_EQ(pwrite(fd, &byte, 1, at), 1);
	}
	CHECK_EQ(import_at_start(&b, fd, 0, &copy), 0); /* as it was */
	CHECK_EQ(story_check(copy, 1, 0, 10), 0);
	printf("# damaged at each of %lld bytes\n", (long long)bytes);
	kvt_seq_destroy(copy);
	kvt_seq_destroy(seq);
	close(fd);
	place_close(&a);
	place_close(&b);
}

static void other_geometry(const char *dir)
{
	static const struct {
		struct place_config config;
		const char *word;
	} others[] = {
		{ { .blocks = 32, .dram = 32, .block_tokens = 4, .layers = 3 }, "layers is 2" },
		{ { .blocks = 32, .dram = 32, .block_tokens = 4, .kv_heads = 1 }, "kv_heads is 2" },
		{ { .blocks = 32, .dram = 32, .block_tokens = 4, .dim = 16 }, "k_dim is 8" },
		{ { .blocks = 32, .dram = 32, .block_tokens = 4, .k_type = KVT_F16 },
		  "k_type is 0" },
		{ { .blocks = 32, .dram = 32, .block_tokens = 8 }, "block_tokens is 4" },
		{ { .blocks = 32, .dram = 32, .block_tokens = 4, .model = 'x' }, "another model" },
	};
	struct kvt_seq *seq, *copy;
	struct place a, b;
	uint32_t i;
	int fd;

	place_open(&a, dir, &small);
	seq = story(&a, 1, 10);
	fd = stream_of(seq);
	for (i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		place_open(&b, dir, &others[i].config);
		CHECK_ERR(import_at_start(&b, fd, 0, &copy), -EINVAL, others[i].word);
		place_close(&b);
	}
	kvt_seq_destroy(seq);
	close(fd);
	place_close(&a);
}

static void cycle(const char *dir)
{
	struct kvt_seq *seq, *there, *back = NULL, *none;
	struct place a, b;
	int fd, second, i, ret;

	place_open(&a, dir, &small);
	place_open(&b, dir, &small);
	seq = story(&a, 1, 10);
	fd = stream_of(seq);
	CHECK_EQ(import_at_start(&b, fd, 0, &there), 0);
	second = stream_of(there);
	CHECK_ERR(import_at_start(&a, second, 0, &back), -ELOOP, "cycle");
	CHECK_EQ(story_check(there, 1, 0, 10), 0);
	CHECK_EQ(import_at_start(&a, second, KVT_IMPORT_AGAIN, &back), 0);
	CHECK_EQ(story_check(back, 1, 0, 10), 0);
	CHECK_ERR(import_at_start(&a, second, 8, &none), -EINVAL, "flags");
	close(second);
	close(fd);
	/* To and fro for ever ends too. */
	for (i = 0, ret = 0; !ret && i < 40; i++) {
		struct kvt_seq *next;

		fd = memfd_create("stream", MFD_CLOEXEC);
		ret = kvt_seq_export(back, fd, TIMEOUT_MS);
		if (!ret) {
			CHECK_EQ(import_at_start(&a, fd, KVT_IMPORT_AGAIN, &next), 0);
			kvt_seq_destroy(back);
			back = next;
		}
		close(fd);
	}
	CHECK_EQ(ret, -ELOOP);
	kvt_seq_destroy(back);
	kvt_seq_destroy(there);
	kvt_seq_destroy(seq);
	place_close(&a);
	place_close(&b);
}

static void no_room(const char *dir)
{
	static const struct place_config tiny = { .blocks = 4, .dram = 4, .block_tokens = 4 };
	struct kvt_cache_stats before;
	struct kvt_seq *seq, *copy;
	struct place a, b;
	int fd;

	place_open(&a, dir, &small);
	place_open(&b, dir, &tiny);
	seq = story(&a, 1, 10);
	fd = stream_of(seq);
	kvt_cache_stats(b.cache, &before);
	CHECK_ERR(import_at_start(&b, fd, 0, &copy), -ENOSPC, "the pool is full");
	untouched(&b, &before);
	kvt_seq_destroy(seq);
	close(fd);
	place_close(&a);
	place_close(&b);
}

static void silent_peer(const char *dir)
{
	struct kvt_seq *seq, *copy;
	struct place a;
	int fd[2];

	place_open(&a, dir, &large);
	seq = story(&a, 1, 1000);
	CHECK_EQ(pipe2(fd, O_CLOEXEC), 0);
	CHECK_ERR(kvt_seq_import(a.cache, fd[0], 0, 50, &copy), -ETIMEDOUT, "did nothing");
	CHECK_ERR(kvt_seq_export(seq, fd[1], 50), -ETIMEDOUT, "did nothing");
	close(fd[0]);
	CHECK_ERR(kvt_seq_export(seq, fd[1], 50), -EPIPE, "broke"); /* and no signal */
	close(fd[1]);
	CHECK_ERR(kvt_seq_export(seq, -1, 50), -EBADF, "");
	CHECK_EQ(story_check(seq, 1, 0, 1000), 0);
	kvt_seq_destroy(seq);
	place_close(&a);
}

static void pair_of_sockets(int fd[2])
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&addr, &len) ||
	    connect(fd[1], (struct sockaddr *)&addr, sizeof(addr)))
		check_skip("no TCP over the loopback");
	fd[0] = accept(listener, NULL, NULL);
	CHECK(fd[0] >= 0);
	close(listener);
}

/* What the prefill process does: makes its own pool, computes, hands over. */
static void prefill(const char *dir, int fd, uint32_t tokens)
{
	struct kvt_seq *seq;
	struct place p;
	uint32_t at, nr;

	place_open(&p, dir, &large);
	CHECK_EQ(kvt_seq_create(p.cache, &seq), 0);
	for (at = 0; at < tokens; at += nr) {
		nr = tokens - at < 100 ? tokens - at : 100;
		story_append(seq, 3, at, nr);
	}
	_exit(kvt_seq_export(seq, fd, TIMEOUT_MS) ? 1 : 0);
}

static void refuse_one(const char *dir, int socket)
{
	struct place_config other = large;
	struct kvt_seq *seq;
	struct place p;

	other.layers = 3;
	place_open(&p, dir, &other);
	CHECK_ERR(kvt_seq_receive(p.cache, socket, 0, TIMEOUT_MS, &seq), -EINVAL, "layers");
	place_close(&p);
}

/* A prefill process over TCP, and this process decodes on. */
static void over_tcp(const char *dir)
{
	struct kvt_seq *seq;
	struct place p;
	int fd[2], status;
	pid_t pid;

	pair_of_sockets(fd);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		close(fd[0]);
		prefill(dir, fd[1], 900);
	}
	close(fd[1]);
	place_open(&p, dir, &large);
	CHECK_EQ(kvt_seq_import(p.cache, fd[0], 0, TIMEOUT_MS, &seq), 0);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	CHECK_EQ(story_check(seq, 3, 0, 900), 0);
	story_append(seq, 3, 900, 50);
	CHECK_EQ(story_check(seq, 3, 0, 950), 0);
	kvt_seq_destroy(seq);
	close(fd[0]);
	place_close(&p);
}

/* By descriptor: the other process has it when the call returns. */
static void by_descriptor(const char *dir)
{
	struct kvt_seq *seq, *copy, *none;
	int fd[2], status;
	struct place p;
	pid_t pid;

	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	fflush(stdout);
	pid = fork();
	if (!pid) { /* prefill */
		close(fd[0]);
		place_open(&p, dir, &large);
		seq = story(&p, 3, 600);
		CHECK_EQ(kvt_seq_send(seq, fd[1], TIMEOUT_MS), 0);
		CHECK_EQ(story_check(seq, 3, 0, 600), 0);
		/* The receiver has another geometry now. */
		CHECK_ERR(kvt_seq_send(seq, fd[1], TIMEOUT_MS), -EREMOTEIO, "could not take");
		story_append(seq, 4, 600, 30); /* here it goes on its own way */
		CHECK_EQ(kvt_seq_send(seq, fd[1], TIMEOUT_MS), 0);
		kvt_seq_destroy(seq);
		place_close(&p);
		exit(check_failed());
	}
	close(fd[1]);
	place_open(&p, dir, &large);
	CHECK_EQ(kvt_seq_receive(p.cache, fd[0], 0, TIMEOUT_MS, &seq), 0);
	CHECK_EQ(story_check(seq, 3, 0, 600), 0);
	refuse_one(dir, fd[0]);
	CHECK_EQ(kvt_seq_receive(p.cache, fd[0], 0, TIMEOUT_MS, &copy), 0);
	CHECK_EQ(waitpid(pid, &status, 0), pid);
	CHECK_EQ(status, 0);
	story_append(seq, 3, 600, 50); /* the sender is gone */
	CHECK_EQ(story_check(seq, 3, 0, 650), 0);
	CHECK_EQ(story_check(copy, 3, 0, 600), 0);
	CHECK_EQ(story_check(copy, 4, 600, 30), 0);
	CHECK_ERR(kvt_seq_receive(p.cache, fd[0], 0, TIMEOUT_MS, &none), -EPIPE, "");
	kvt_seq_destroy(seq);
	kvt_seq_destroy(copy);
	close(fd[0]);
	place_close(&p);
}

/* Who speaks something else, and who says nothing. */
static void by_descriptor_refused(const char *dir)
{
	static const char junk[64] = "GET / HTTP/1.1";
	struct kvt_seq *seq, *copy;
	struct place p;
	int fd[2];

	place_open(&p, dir, &small);
	seq = story(&p, 1, 10);
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	CHECK_ERR(kvt_seq_send(seq, fd[0], 50), -ETIMEDOUT, "did nothing");
	CHECK_ERR(kvt_seq_receive(p.cache, fd[0], 0, 50, &copy), -ETIMEDOUT, "did nothing");
	CHECK_EQ(send(fd[1], junk, sizeof(junk), MSG_NOSIGNAL), sizeof(junk));
	CHECK_ERR(kvt_seq_send(seq, fd[0], TIMEOUT_MS), -EPROTO, "not of a hand-over");
	close(fd[1]);
	CHECK_ERR(kvt_seq_receive(p.cache, fd[0], 0, TIMEOUT_MS, &copy), -EPIPE, "");
	close(fd[0]);
	CHECK_ERR(kvt_seq_send(seq, fd[0], TIMEOUT_MS), -EBADF, "not open");
	CHECK_EQ(story_check(seq, 1, 0, 10), 0);
	kvt_seq_destroy(seq);
	place_close(&p);
}

/* A peer that stops in the middle of a note, and one whose file could still change. */
static void half_a_hand_over(const char *dir)
{
	uint32_t note[6] = { 0x4b565431 }; /* greeting, pager, block size (2), error, reserved */
	struct iovec iov = { .iov_base = note, .iov_len = sizeof(note) };
	char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
	struct kvt_seq *seq, *copy;
	struct place p;
	int fd[2], file;

	place_open(&p, dir, &small);
	seq = story(&p, 1, 10);
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	CHECK_EQ(send(fd[1], note, 7, MSG_NOSIGNAL), 7);
	CHECK_ERR(kvt_seq_send(seq, fd[0], 50), -ETIMEDOUT, "did nothing");
	CHECK_EQ(send(fd[1], note, 7, MSG_NOSIGNAL), 7);
	CHECK_ERR(kvt_seq_receive(p.cache, fd[0], 0, 50, &copy), -ETIMEDOUT, "did nothing");
	file = stream_of(seq);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &file, sizeof(file));
	CHECK_EQ(sendmsg(fd[1], &msg, MSG_NOSIGNAL), sizeof(note));
	CHECK_ERR(kvt_seq_receive(p.cache, fd[0], KVT_IMPORT_AGAIN, TIMEOUT_MS, &copy), -EPROTO,
		  "not of a hand-over");
	kvt_seq_destroy(copy);
	close(file);
	close(fd[0]);
	close(fd[1]);
	kvt_seq_destroy(seq);
	place_close(&p);
}

#define KILLS 24

/* The prefill process dies at a random moment: a whole sequence or none. */
static void prefill_killed(const char *dir)
{
	struct kvt_cache_stats before;
	uint32_t i, whole_ones = 0;
	uint64_t random = 11;
	struct place p;

	place_open(&p, dir, &large);
	kvt_cache_stats(p.cache, &before);
	for (i = 0; i < KILLS; i++) {
		struct kvt_seq *seq;
		int fd[2], ret;
		pid_t pid;

		CHECK_EQ(pipe2(fd, O_CLOEXEC), 0);
		fflush(stdout);
		pid = fork();
		if (!pid) {
			struct itimerval in = { .it_value.tv_usec =
						       (long)(model_random(&random) % 50000) + 1 };

			close(fd[0]);
			signal(SIGALRM, SIG_DFL);
			setitimer(ITIMER_REAL, &in, NULL); /* kills without warning */
			prefill(dir, fd[1], 600);
		}
		model_random(&random);
		close(fd[1]);
		ret = kvt_seq_import(p.cache, fd[0], 0, TIMEOUT_MS, &seq);
		CHECK(!ret || ret == -EPIPE);
		if (!ret) {
			CHECK_EQ(story_check(seq, 3, 0, 600), 0);
			kvt_seq_destroy(seq);
			whole_ones++;
		}
		untouched(&p, &before);
		waitpid(pid, NULL, 0);
		close(fd[0]);
	}
	printf("# of %d handed over by processes that were killed, %u were whole\n", KILLS,
	       whole_ones);
	place_close(&p);
}

/* The decode process dies at a random byte: the sequence stays, and is handed to another. */
static void decode_killed(const char *dir)
{
	struct kvt_seq *seq;
	uint64_t random = 5;
	struct place p;
	uint32_t i;

	place_open(&p, dir, &large);
	seq = story(&p, 3, 600);
	for (i = 0; i < KILLS; i++) {
		uint64_t most = model_random(&random) % 700000;
		int fd[2], ret;
		pid_t pid;

		CHECK_EQ(pipe2(fd, O_CLOEXEC), 0);
		fflush(stdout);
		pid = fork();
		if (!pid) {
			char buf[4096];
			uint64_t got = 0;
			ssize_t n;

			close(fd[1]);
			while (got < most && (n = read(fd[0], buf, sizeof(buf))) > 0)
				got += (uint64_t)n;
			kill(getpid(), SIGKILL);
		}
		close(fd[0]);
		ret = kvt_seq_export(seq, fd[1], TIMEOUT_MS);
		CHECK(!ret || ret == -EPIPE);
		close(fd[1]);
		waitpid(pid, NULL, 0);
	}
	CHECK_EQ(story_check(seq, 3, 0, 600), 0);
	kvt_seq_destroy(seq);
	place_close(&p);
}

static const struct check_case cases[] = {
	{ "whole", "a sequence arrives byte for byte and goes on", whole },
	{ "cut_everywhere", "a stream that ends early is refused, at every byte", cut_everywhere },
	{ "damaged_everywhere", "a damaged stream is refused, at every byte", damaged_everywhere },
	{ "other_geometry", "another geometry or model is refused by name", other_geometry },
	{ "cycle", "a cycle of hand-overs is refused", cycle },
	{ "no_room", "no room for the sequence is refused and leaves nothing", no_room },
	{ "silent_peer", "a peer that does nothing, or is gone, is an error", silent_peer },
	{ "over_tcp", "prefill here, decode there, over TCP", over_tcp },
	{ "by_descriptor", "a sequence handed over by descriptor", by_descriptor },
	{ "by_descriptor_refused", "a socket with something else at its end is refused",
	  by_descriptor_refused },
	{ "half_a_hand_over",
	  "a peer that stops half-way, or keeps its file open to change, is refused",
	  half_a_hand_over },
	{ "prefill_killed", "a killed prefill process gives a whole sequence or none",
	  prefill_killed },
	{ "decode_killed", "a killed decode process costs the sequence nothing", decode_killed },
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));
}
