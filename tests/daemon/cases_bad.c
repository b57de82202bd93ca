// SPDX-License-Identifier: MIT
/* What a daemon must refuse, and go on. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "fixture.h"

static int raw_socket(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%.100s", daemon_.socket);
	CHECK(sock >= 0 && !connect(sock, (struct sockaddr *)&to, sizeof(to)), "connect: %m");
	return sock;
}

/* The daemon still serves others: a pool that was made before, and a new one. */
static void still_serves(struct kvt_pool *p)
{
	struct kvt_client *c;
	struct kvt_pool *q;
	uint64_t b;

	for (b = 0; b < blocks_of(p); b++)
		CHECK(!wrong_words(p, b, 5), "block %llu of a bystander", (unsigned long long)b);
	c = client();
	q = pool(c, "another", 4 * BLOCK, 4 * BLOCK, 0);
	fill_block(q, 3, 1);
	CHECK(!wrong_words(q, 3, 1), "a new pool");
	kvt_pool_destroy(q);
	kvt_client_close(c);
}

static struct kvt_pool *bystander(struct kvt_client *c)
{
	struct kvt_pool *p = pool(c, "bystander", 16 * BLOCK, 4 * BLOCK, 0);
	uint64_t b;

	for (b = 0; b < 16; b++)
		fill_block(p, b, 5);
	return p;
}

static bool closed(int sock)
{
	char byte;
	struct timeval t = { .tv_sec = 20 };

	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	return recv(sock, &byte, 1, 0) <= 0 && errno != EAGAIN;
}

static void malformed(void)
{
	static char large[KVT_MSG_MAX + 1000];
	struct kvt_msg msg = { .size = sizeof(msg), .type = KVT_MSG_STATUS };
	struct kvt_client *c;
	struct kvt_pool *p;
	int sock, i;

	daemon_start(NULL);
	c = client();
	p = bystander(c);
	for (i = 0; i < 6; i++) {
		sock = raw_socket();
		switch (i) {
		case 0: /* shorter than a head */
			CHECK(send(sock, &msg, 3, 0) == 3, "send: %m");
			break;
		case 1: /* a size that is not its own */
			msg.size = 4000;
			CHECK(send(sock, &msg, sizeof(msg), 0) > 0, "send: %m");
			break;
		case 2: /* longer than any */
			CHECK(send(sock, large, sizeof(large), 0) > 0, "send: %m");
			break;
		case 3:
			msg = (struct kvt_msg){ .size = sizeof(msg), .zero = 1 };
			CHECK(send(sock, &msg, sizeof(msg), 0) > 0, "send: %m");
			break;
		case 4:
			msg = (struct kvt_msg){ .size = sizeof(msg), .error = -5 };
			CHECK(send(sock, &msg, sizeof(msg), 0) > 0, "send: %m");
			break;
		default: /* an empty packet */
			CHECK(send(sock, &msg, 0, 0) == 0, "send: %m");
		}
		CHECK(closed(sock), "expected the connection to end (%d)", i);
		close(sock);
	}
	still_serves(p);
	CHECK(daemon_metric("kvtier_refused_messages_total") >= 5,
	      "expected refusals to be counted");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* The same chance each time. */
static uint32_t chance(void)
{
	static uint64_t x = 7;

	x = x * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(x >> 34);
}

/* Messages of every type with bodies of chance: refused or answered, never more. */
static void random_messages(void)
{
	static char text[KVT_MSG_MAX];
	struct kvt_hello hello;
	struct kvt_client *c;
	struct kvt_pool *p;
	uint32_t i;
	int sock;

	daemon_start(NULL);
	c = client();
	p = bystander(c);
	sock = kvt_link_connect(daemon_.socket, &hello);
	for (i = 0; i < 3000; i++) {
		static const uint16_t sizes[] = { 0, 8, 16, 24, 32, 128, 144, 240, 1000, 60000 };
		struct kvt_ask ask = KVT_ASK_INIT((uint16_t)((int)chance() % (KVT_MSG_TYPES + 2)));
		size_t at;
		int ret;

		ask.bytes = sizes[(int)chance() % 10];
		for (at = 0; at < ask.bytes; at++)
			text[at] = (char)((int)chance() % 4 ? (int)chance() % 3 : (int)chance());
		ask.body = text;
		ask.answer = text;
		ask.room = sizeof(text);
		if (ask.type == KVT_MSG_SCRUB || ask.type == KVT_MSG_QUOTA)
			continue;
		ret = kvt_client_ask_now(sock, &ask);
		if (ret == -ECONNRESET || ret == -EPIPE) {
			close(sock);
			sock = kvt_link_connect(daemon_.socket, &hello);
		}
		CHECK(sock >= 0, "expected the daemon to accept connections, message %u", i);
	}
	close(sock);
	still_serves(p);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void before_hello(void)
{
	struct kvt_hello other = { .version = KVT_PROTOCOL_VERSION + 1 };
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_STATUS);
	struct kvt_daemon_status st;
	int sock;

	daemon_start(NULL);
	sock = raw_socket();
	ask.answer = &st;
	ask.room = sizeof(st);
	ERROR(kvt_client_ask_now(sock, &ask), -EPROTO);
	ask.type = KVT_MSG_HELLO;
	ask.body = &other;
	ask.bytes = sizeof(other);
	ERROR(kvt_client_ask_now(sock, &ask), -EPROTO);
	ask.type = 999;
	ERROR(kvt_client_ask_now(sock, &ask), -ENOTTY);
	close(sock);
}

/* A client that is killed in the middle of each kind of message. */
static void dies_in_message(void)
{
	struct kvt_client *c;
	struct kvt_pool *p;
	int i;

	daemon_start(NULL);
	c = client();
	p = bystander(c);
	for (i = 0; i < 24; i++) {
		pid_t pid = fork();

		if (!pid) {
			struct kvt_plan_range r = { 0, BLOCK };
			struct kvt_client *own = client();
			struct kvt_pool *q = pool(own, "dying", 64 * BLOCK, 16 * BLOCK,
						  KVT_SHARED_KEEP);
			struct kvtier_range ranges[64];
			uint64_t b;

			for (;;) {
				for (b = 0; b < 64; b++) {
					fill_block(q, b, 1);
					ranges[b] = (struct kvtier_range){ b * BLOCK, BLOCK, 0, 0 };
				}
				kvt_range_op(q, KVTIER_OP_PIN, 0, 0, ranges, 8);
				kvt_range_op(q, KVTIER_OP_DEMOTE, 0, 0, ranges, 64);
				kvt_plan_publish(q, &r, 1, 0);
				kvt_range_op(q, KVTIER_OP_PROMOTE, 0, 0, ranges, 16);
				kvt_shared_checkpoint(q, "x", 1);
				kvt_range_op(q, KVTIER_OP_UNPIN, 0, 0, ranges, 8);
			}
		}
		pause_ms(3 + (unsigned int)i * 5 % 60);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		pause_ms(5);
		kvt_shared_remove(c, "dying");
	}
	EVENTUALLY(daemon_metric("kvtier_live_pools") == 1,
		   "expected the dead clients' pools to go");
	still_serves(p);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- rings ------------------------------------------------------------------------------- */

static struct kvt_plan_ring *ring_of(struct kvt_pool *p)
{
	struct kvt_plan_range r = { 0, BLOCK };

	OK(kvt_plan_publish(p, &r, 1, 0));
	OK(kvt_plan_wait(p, 20000));
	return kvt_shared_of(p)->plan.ring;
}

static void corrupted_ring(void)
{
	struct kvt_client *c, *bad;
	struct kvt_pool *p, *q;
	int i;

	daemon_start(NULL);
	c = client();
	p = bystander(c);
	ring_of(p);
	for (i = 0; i < 5; i++) {
		struct kvt_plan_ring *ring;
		struct kvt_plan *plan;

		bad = client();
		q = pool(bad, "bad", 16 * BLOCK, 8 * BLOCK, 0);
		ring = ring_of(q);
		plan = &kvt_shared_of(q)->plan;
		switch (i) {
		case 0: /* a head that cannot be */
			ring->head = plan->head + plan->entries + 5;
			break;
		case 1:
			ring->head = plan->head - 1;
			break;
		case 2: /* a block outside */
			ring->entry[plan->head & (plan->entries - 1)] =
				(struct kvt_plan_entry){ 15, 2 };
			ring->head = ++plan->head;
			break;
		case 3: /* one that would overflow */
			ring->entry[plan->head & (plan->entries - 1)] =
				(struct kvt_plan_entry){ 3, UINT32_MAX };
			ring->head = ++plan->head;
			break;
		default: /* no such mark */
			ring->entry[plan->head & (plan->entries - 1)] =
				(struct kvt_plan_entry){ 77, 0 };
			ring->head = ++plan->head;
		}
		eventfd_write(plan->doorbell, 1);
		EVENTUALLY(__atomic_load_n(&ring->error, __ATOMIC_ACQUIRE) == -EBADMSG,
			   "expected the ring to be refused (%d)", i);
		ERROR(kvt_plan_wait(q, 20000), -EBADMSG);
		/* The pool is as it was, and a new ring is taken. */
		fill_block(q, 9, 1);
		CHECK(!wrong_words(q, 9, 1), "the pool of a bad ring");
		ring_of(q);
		/* All else in the ring is the daemon's own business: spoiling it changes nothing. */
		ring = plan->ring;
		ring->tail = ring->entries = 99;
		ring->passed = UINT64_MAX;
		eventfd_write(plan->doorbell, 1);
		kvt_pool_destroy(q);
		kvt_client_close(bad);
	}
	CHECK(daemon_logged("event=plan_refused"), "expected the log to name what was wrong");
	still_serves(p);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* What comes instead of a userfaultfd. */
static void wrong_descriptor(void)
{
	struct kvt_ask ask = KVT_ASK_INIT(KVT_MSG_MAP);
	struct kvt_map map = { 0 };
	struct kvt_client *c;
	struct kvt_pool *p;

	if (want_module)
		skip("pools of the module need no userfaultfd");
	daemon_start(NULL);
	c = client();
	p = bystander(c);
	map.pool = kvt_shared_of(p)->id;
	map.addr = 4096;
	ask.body = &map;
	ask.bytes = sizeof(map);
	ERROR(kvt_client_ask(c, &ask), -EINVAL); /* none */
	ask.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	ERROR(kvt_client_ask(c, &ask), -EBUSY); /* it has its mapping */
	close(ask.fd);
	still_serves(p);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- connections ------------------------------------------------------------------------- */

static void thousand_connections(void)
{
	static int socks[1000], more[40];
	struct rlimit limit;
	struct kvt_client *c;
	struct kvt_pool *p;
	double begun, used;
	int i;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < 1500)
		skip("only %lu descriptors are allowed here", (unsigned long)limit.rlim_cur);
	daemon_start("[daemon]\nmax-clients = 1010\n");
	for (i = 0; i < 1000; i++)
		socks[i] = raw_socket();
	EVENTUALLY(daemon_metric("kvtier_connected_clients") == 1000, "expected 1000 connections");
	c = client();
	p = bystander(c);
	begun = daemon_cpu_s();
	pause_ms(1000);
	used = daemon_cpu_s() - begun;
	figure("idle.connections_cpu_pct", 100 * used, "percent");
	still_serves(p);
	/* Too many are refused, and the others stay. */
	for (i = 0; i < 40; i++)
		more[i] = raw_socket();
	EVENTUALLY(daemon_metric("kvtier_refused_connections_total") >= 13, "expected refusals");
	for (i = 0; i < 40; i++)
		close(more[i]);
	still_serves(p);
	for (i = 0; i < 1000; i++)
		close(socks[i]);
	EVENTUALLY(daemon_metric("kvtier_connected_clients") == 1,
		   "expected the others to be gone");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* A thousand pools that nobody touches cost next to nothing. */
static void thousand_pools(void)
{
	struct kvt_client *c;
	struct kvt_pool **p;
	double begun, used;
	char name[32];
	int i;
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < 12000)
		skip("only %lu descriptors are allowed here", (unsigned long)limit.rlim_cur);
	daemon_start("[idle]\nafter-ms = 200\n");
	c = client();
	p = calloc(1000, sizeof(struct kvt_pool *));
	CHECK(p, "calloc");
	for (i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "p%d", i);
		p[i] = pool(c, name, 4 * BLOCK, 4 * BLOCK, 0);
		fill_block(p[i], 0, (uint64_t)i);
		OK(kvt_seal(p[i], 0, BLOCK));
	}
	EVENTUALLY(state_of(p[999], 0) == KVTIER_BLOCK_CLEAN &&
			   state_of(p[0], 0) == KVTIER_BLOCK_CLEAN,
		   "expected idle pools to be written back");
	pause_ms(500);
	begun = daemon_cpu_s();
	pause_ms(2000);
	used = daemon_cpu_s() - begun;
	figure("idle.pools_cpu_pct", 100 * used / 2, "percent");
	for (i = 0; i < 1000; i++) {
		CHECK(!wrong_words(p[i], 0, (uint64_t)i), "pool %d", i);
		kvt_pool_destroy(p[i]);
	}
	free(p);
	kvt_client_close(c);
}

/* ---- configuration ----------------------------------------------------------------------- */

static int check_config(const char *text, char *said, size_t room)
{
	char command[800];
	FILE *file;
	size_t n;

	daemon_configure(text);
	snprintf(command, sizeof(command), "'%s' --config '%s' --check 2>&1", daemon_program(),
		 daemon_.config);
	file = popen(command, "re");
	CHECK(file, "popen: %m");
	n = fread(said, 1, room - 1, file);
	said[n] = 0;
	return pclose(file);
}

static void config_typo(void)
{
	static const struct {
		const char *text, *says;
	} wrong[] = {
		{ "[writeback]\nrat = 5\n", ":9: [writeback] has no key 'rat'" },
		{ "[writebak]\nrate = 5\n", ":9: there is no section [writebak]" },
		{ "[tiers]\ndram = 5X\n", ":9: dram: '5X' is not a size" },
		{ "[idle]\nafter-ms = soon\n", ":9: after-ms: 'soon' is not a number" },
		{ "[idle]\ndrain-above = 101\n",
		  ":9: drain-above: '101' is not a number from 0 to 100" },
		{ "[tenant x]\ndram = 1G\n", "[tenant x] needs user or cgroup" },
		{ "[tenant x]\nuser = nobody-of-this-name\n", ":9: user: 'nobody-of-this-name'" },
		{ "[default]\nuser = 1\n", ":9: [default] has no key 'user'" },
		{ "[daemon]\nsocket = relative\n", ":9: socket: 'relative' does not begin with /" },
		{ "[daemon]\nmodule = maybe\n", ":9: module: 'maybe' is neither yes nor no" },
		{ "[default]\nmax-pools = 0\n",
		  ":9: max-pools: '0' is not a number from 1 to 100000" },
		{ "[tenant x]\nmax-clients = all\n", ":9: max-clients: 'all' is not a number" },
		{ "[tenant x]\nmax-metadata = 1Q\n", ":9: max-metadata: '1Q' is not a size" },
		{ "[metrics]\npools = some\n", ":9: pools: 'some' is neither yes nor no" },
		{ "what is this\n", ":8: " },
	};
	char said[1000];
	size_t i;

	for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		CHECK(check_config(wrong[i].text, said, sizeof(said)), "expected %s to be refused",
		      wrong[i].text);
		CHECK(strstr(said, wrong[i].says), "expected '%s', got '%s'", wrong[i].says, said);
	}
	CHECK(!check_config(
		      "[tenant x]\nuser = 5-7\ndram = 1G\nmax-clients = 7\nmax-metadata = 64M\n[scrub]\nevery-s = 60\n",
		      said, sizeof(said)),
	      "expected a good one to pass: %s", said);
}

static void reload(void)
{
	struct kvt_daemon_tenant t[4];
	struct kvt_client *c;
	int i;

	daemon_start("[default]\ndram = 1M\n");
	c = client();
	CHECK(kvt_daemon_tenants(c, t, 4) == 1 && t[0].quota[KVTIER_TIER_DRAM] == MIB, "a quota");
	daemon_configure("[default]\ndram = 2M\n");
	kill(daemon_.pid, SIGHUP);
	for (i = 0; i < 2000 && t[0].quota[KVTIER_TIER_DRAM] != 2 * MIB; i++, pause_ms(5))
		kvt_daemon_tenants(c, t, 4);
	CHECK(t[0].quota[KVTIER_TIER_DRAM] == 2 * MIB, "expected the new quota to hold");
	daemon_configure("[default]\ndrm = 3M\n");
	kill(daemon_.pid, SIGHUP);
	EVENTUALLY(daemon_logged("event=reload_refused"), "expected a bad file to be refused");
	kvt_daemon_tenants(c, t, 4);
	CHECK(t[0].quota[KVTIER_TIER_DRAM] == 2 * MIB, "expected the old quota to stay");
	kvt_client_close(c);
}

/* ---- the disk ---------------------------------------------------------------------------- */

/* A disk that takes no more: dirty blocks stay, clean ones come and go, and it ends by itself. */
static void disk_fills(void)
{
	struct rlimit none = { 0, RLIM_INFINITY }, all = { RLIM_INFINITY, RLIM_INFINITY };
	struct kvtier_event events[8];
	struct kvtier_stats st;
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b;

	if (want_module)
		skip("the module writes to its own stores");
	daemon_start("[writeback]\nwear-filter = yes\n");
	c = client();
	p = pool(c, "full", 32 * BLOCK, 16 * BLOCK, 0);
	for (b = 0; b < 12; b++)
		fill_block(p, b, 1);
	CHECK(!prlimit(daemon_.pid, RLIMIT_FSIZE, &none, NULL), "prlimit: %m");
	CHECK(kvt_writeback(p, 0, 4 * BLOCK) < 0, "expected writing back to fail");
	CHECK(kvt_demote(p, 4 * BLOCK, BLOCK) < 0, "expected demotion to fail");
	OK(kvt_stats(p, &st));
	CHECK(st.enospc && st.tier[KVTIER_TIER_NVME].io_errors, "expected errors to be counted");
	CHECK(kvt_event_read(p, events, 8) > 0 && events[0].type == KVTIER_EVENT_IO_ERROR,
	      "expected an event");
	for (b = 0; b < 12; b++)
		CHECK(!wrong_words(p, b, 1), "block %llu of a full disk", (unsigned long long)b);
	CHECK(!prlimit(daemon_.pid, RLIMIT_FSIZE, &all, NULL), "prlimit: %m");
	pause_ms(150);
	for (b = 0; b < 32; b++)
		fill_block(p, b, 2);
	for (b = 0; b < 32; b++)
		CHECK(!wrong_words(p, b, 2), "block %llu once there was room",
		      (unsigned long long)b);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* Slots that change or go behind our back: an error for those blocks, never their bytes. */
static void disk_lies(void)
{
	char path[400], junk[4096];
	struct kvtier_block_info info;
	struct kvt_client *c;
	struct kvt_pool *p;
	uint64_t b;
	int fd;

	if (want_module)
		skip("the module reads its own stores");
	daemon_start(NULL);
	c = client();
	p = pool(c, "lies", 16 * BLOCK, 8 * BLOCK, KVT_SHARED_KEEP);
	for (b = 0; b < 8; b++)
		fill_block(p, b, 1);
	OK(kvt_seal(p, 0, 8 * BLOCK));
	OK(kvt_demote(p, 0, 8 * BLOCK));
	OK(kvt_query(p, 2, 1, &info));
	snprintf(path, sizeof(path), "%s/state/user-%u/lies.slots", daemon_.dir, geteuid());
	fd = open(path, O_RDWR | O_CLOEXEC);
	memset(junk, 0x55, sizeof(junk));
	CHECK(fd >= 0 && pwrite(fd, junk, sizeof(junk), (off_t)(info.slot * BLOCK)) > 0, "%s: %m",
	      path);
	CHECK(!fsync(fd), "fsync: %m");
	ERROR(kvt_promote(p, 2 * BLOCK, BLOCK), -EIO);
	CHECK(state_of(p, 2) == KVTIER_BLOCK_BAD, "expected a bad block");
	for (b = 0; b < 8; b++)
		CHECK(b == 2 || !wrong_words(p, b, 1), "block %llu beside a bad one",
		      (unsigned long long)b);
	CHECK(daemon_logged("event=block_bad"), "expected the log to say so");
	OK(kvt_demote(p, 0, 8 * BLOCK));
	CHECK(!ftruncate(fd, 0), "ftruncate: %m");
	ERROR(kvt_promote(p, 4 * BLOCK, BLOCK), -EIO);
	OK(kvt_discard(p, 0, 8 * BLOCK));
	fill_block(p, 2, 3);
	CHECK(!wrong_words(p, 2, 3), "a block that was discarded");
	close(fd);
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static void no_room(void)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_client *c;
	struct kvt_pool *p;

	daemon_start("[tiers]\nnvme = 64M\n");
	c = client();
	config.name = "huge";
	config.bytes = 128 * MIB;
	config.dram_bytes = 16 * MIB;
	ERROR(kvt_shared_create(c, &config, &p), -ENOSPC);
	config.bytes = 1ull << 50;
	config.nvme_bytes = 1ull << 50;
	CHECK(kvt_shared_create(c, &config, &p) < 0, "expected a petabyte to be refused");
	config.bytes = 0;
	ERROR(kvt_shared_create(c, &config, &p), -EINVAL);
	config.bytes = MIB;
	config.nvme_bytes = 0;
	config.name = "../escape";
	ERROR(kvt_shared_create(c, &config, &p), -EINVAL);
	config.name = ".hidden";
	ERROR(kvt_shared_create(c, &config, &p), -EINVAL);
	config.name = "";
	ERROR(kvt_shared_create(c, &config, &p), -EINVAL);
	config.name = "odd";
	config.block_bytes = 100000;
	ERROR(kvt_shared_create(c, &config, &p), -EINVAL);
	config.block_bytes = 0;
	config.flags = 64;
	ERROR(kvt_shared_create(c, &config, &p), -EINVAL);
	config.flags = 0;
	OK(kvt_shared_create(c, &config, &p));
	config.name = "odd";
	{
		struct kvt_pool *again;

		ERROR(kvt_shared_create(c, &config, &again), -EEXIST);
		ERROR(kvt_shared_attach(c, "odd", "else", &again), -EMEDIUMTYPE);
		ERROR(kvt_shared_attach(c, "odd", "", &again), -EBUSY);
	}
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

/* ---- the kernel and the service manager have no room now ---------------------------------- */

/* A poll that cannot be begun is begun later, and not over and over again. */
static void polls_refused(void)
{
	struct spoil *spoil = daemon_spoil();
	struct kvt_client *c;
	struct kvt_pool *p;
	int sock, most = 1 << 30, tried, major = 0, minor = 0;
	struct utsname kernel;

	if (uname(&kernel) || sscanf(kernel.release, "%d.%d", &major, &minor) != 2 ||
	    major * 1000 + minor < 6010)
		skip("an operation that ends as we like is of Linux 6.10");
	daemon_start(NULL);
	c = client();
	p = bystander(c);
	spoil->polls = most;
	sock = raw_socket();
	pause_ms(300);
	tried = most - spoil->polls;
	CHECK(tried > 0 && tried < 1000, "expected pauses between tries, there were %d in 300 ms",
	      tried);
	spoil->polls = 0;
	still_serves(p);
	close(sock);
	EVENTUALLY(daemon_metric("kvtier_connected_clients") == 1,
		   "expected it to hear that one went");
	kvt_pool_destroy(p);
	kvt_client_close(c);
}

static uint32_t queue_of_sockets(void)
{
	FILE *file = fopen("/proc/sys/net/unix/max_dgram_qlen", "re");
	uint32_t nr = 0;

	if (file && fscanf(file, "%u", &nr) != 1)
		nr = 0;
	if (file)
		fclose(file);
	return nr;
}

/* Its queue is full: nobody waits for it, and in the end it has all. */
static void manager_is_slow(void)
{
	uint32_t nr = queue_of_sockets() / 3 + 8, i;
	struct kvt_client *c;
	struct kvt_pool **p = calloc(nr, sizeof(struct kvt_pool *));
	char name[32];

	if (!p || nr > 300)
		skip("a queue of %u messages is too long", nr * 3);
	daemon_start(NULL);
	c = client();
	pthread_mutex_lock(&daemon_.lock);
	for (i = 0; i < nr; i++) {
		snprintf(name, sizeof(name), "p%u", i);
		p[i] = pool(c, name, 4 * BLOCK, 4 * BLOCK, 0);
		fill_block(p[i], 0, i);
	}
	CHECK(daemon_metric("kvtier_unkept_pools") > 0, "expected pools that are not kept yet");
	CHECK(daemon_logged("event=notify_late"), "expected a line of the log");
	pthread_mutex_unlock(&daemon_.lock);
	EVENTUALLY(daemon_metric("kvtier_unkept_pools") == 0, "expected all to be kept");
	daemon_kill(SIGKILL);
	daemon_spawn();
	for (i = 0; i < nr; i++) {
		CHECK(!wrong_words(p[i], 0, i), "pool %u", i);
		kvt_pool_destroy(p[i]);
	}
	free(p);
	kvt_client_close(c);
}

static uint32_t flags_of(struct kvt_client *c, const char *name)
{
	struct kvt_daemon_pool pools[8];
	int nr = kvt_daemon_pools(c, pools, 8), i;

	for (i = 0; i < nr; i++)
		if (!strcmp(pools[i].name, name))
			return pools[i].flags;
	return 0;
}

/* It keeps seven descriptors at most, and a pool has three. */
static void manager_is_full(void)
{
	struct kvt_pool *a, *b, *late;
	struct kvt_client *c;

	setenv("FDSTORE", "7", 1);
	daemon_start(NULL);
	c = client();
	a = pool(c, "a", 4 * BLOCK, 4 * BLOCK, 0);
	b = pool(c, "b", 4 * BLOCK, 4 * BLOCK, 0);
	CHECK(daemon_metric("kvtier_unkept_pools") == 0, "expected both to be kept");
	late = pool(c, "late", 4 * BLOCK, 4 * BLOCK, 0);
	CHECK(daemon_metric("kvtier_unkept_pools") == 1, "expected one that is not kept");
	CHECK(daemon_logged("event=pool_not_kept"), "expected a line of the log");
	CHECK(flags_of(c, "a") & KVT_POOL_OUTLIVES && !(flags_of(c, "late") & KVT_POOL_OUTLIVES),
	      "expected it to be seen");
	kvt_pool_destroy(a);
	EVENTUALLY(flags_of(c, "late") & KVT_POOL_OUTLIVES, "expected it to be kept now");
	kvt_pool_destroy(b);
	kvt_pool_destroy(late);
	kvt_client_close(c);
}

const struct test_case bad_cases[] = {
	{ "malformed", "what is not a message ends its connection alone", malformed, false },
	{ "random_messages", "bodies of chance are refused", random_messages, false },
	{ "before_hello", "a connection begins with hello, of this version", before_hello, false },
	{ "dies_in_message", "a client killed in the middle of any message", dies_in_message,
	  false },
	{ "corrupted_ring", "a ring that its client spoilt is refused, nobody else's",
	  corrupted_ring, false },
	{ "wrong_descriptor", "something else than a userfaultfd", wrong_descriptor, false },
	{ "thousand_connections", "a thousand idle connections, and one too many",
	  thousand_connections, false },
	{ "polls_refused", "a poll that the kernel has no memory for", polls_refused, false },
	{ "manager_is_slow", "a service manager whose queue is full stops nobody", manager_is_slow,
	  false },
	{ "manager_is_full", "a service manager that keeps no more descriptors", manager_is_full,
	  false },
	{ "thousand_pools", "a thousand idle pools cost next to nothing", thousand_pools, false },
	{ "config_typo", "a typo is named with its line", config_typo, false },
	{ "reload", "SIGHUP reads the configuration again, if it is good", reload, false },
	{ "disk_fills", "a disk that takes no more", disk_fills, false },
	{ "disk_lies", "slots that are not what was written", disk_lies, false },
	{ "no_room", "pools that cannot be", no_room, false },
	{ 0 },
};
