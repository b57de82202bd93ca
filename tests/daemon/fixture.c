// SPDX-License-Identifier: MIT
/* Daemons of a test and the service manager that keeps their descriptors. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fixture.h"

#define SYNC "SYNC=1" /* from ourselves */

struct daemon daemon_;

uint64_t now_ms(void)
{
	return (uint64_t)(now_s() * 1000);
}

double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void pause_ms(unsigned int ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	nanosleep(&t, NULL);
}

/* ---- the service manager ----------------------------------------------------------------- */

static void keep(struct daemon *d, int fd, const char *name)
{
	pthread_mutex_lock(&d->lock);
	if (d->nr_store < STORE_MAX) {
		struct stored *s = &d->store[d->nr_store++];

		s->fd = fd;
		snprintf(s->name, sizeof(s->name), "%s", name);
	} else {
		close(fd);
	}
	pthread_mutex_unlock(&d->lock);
}

static void forget(struct daemon *d, const char *name)
{
	int i;

	pthread_mutex_lock(&d->lock);
	for (i = 0; i < d->nr_store; i++) {
		if (strcmp(d->store[i].name, name))
			continue;
		close(d->store[i].fd);
		d->store[i--] = d->store[--d->nr_store];
	}
	pthread_mutex_unlock(&d->lock);
}

static const char *value_of(const char *text, const char *key, char *buf, size_t room)
{
	const char *at = strstr(text, key);

	if (!at)
		return NULL;
	snprintf(buf, room, "%.*s", (int)strcspn(at + strlen(key), "\n"), at + strlen(key));
	return buf;
}

static void note(struct daemon *d, const char *text, int fd)
{
	char name[64];

	if (strstr(text, "FDSTOREREMOVE=1")) {
		if (value_of(text, "FDNAME=", name, sizeof(name)))
			forget(d, name);
	} else if (strstr(text, "FDSTORE=1") && fd >= 0 &&
		   value_of(text, "FDNAME=", name, sizeof(name))) {
		keep(d, fd, name);
		fd = -1;
	} else if (strstr(text, "READY=1")) {
		if (write(d->ready[1], "r", 1) < 0)
			return;
	} else if (!strcmp(text, SYNC)) {
		if (write(d->synced[1], "s", 1) < 0)
			return;
	}
	if (fd >= 0)
		close(fd);
}

static void *manager_thread(void *arg)
{
	struct daemon *d = arg;
	char text[1024];

	for (;;) {
		union {
			char room[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control;
		struct iovec iov = { text, sizeof(text) - 1 };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
				      .msg_control = control.room,
				      .msg_controllen = sizeof(control.room) };
		ssize_t n = recvmsg(d->notify_sock, &msg, MSG_CMSG_CLOEXEC);
		struct cmsghdr *c;
		int fd = -1;

		if (n < 0 && errno != EINTR)
			return NULL;
		if (n <= 0)
			continue;
		text[n] = 0;
		if (!strcmp(text, "END"))
			return NULL;
		c = CMSG_FIRSTHDR(&msg);
		if (c && c->cmsg_type == SCM_RIGHTS)
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		note(d, text, fd);
	}
}

static void manager_path(struct sockaddr_un *to)
{
	*to = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(to->sun_path, sizeof(to->sun_path), "%.90s/notify", daemon_.dir);
}

static void manager_start(void)
{
	struct sockaddr_un to;

	manager_path(&to);
	daemon_.notify_sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(!bind(daemon_.notify_sock, (struct sockaddr *)&to, sizeof(to)), "bind: %m");
	CHECK(!pipe2(daemon_.ready, O_CLOEXEC) && !pipe2(daemon_.synced, O_CLOEXEC), "pipe: %m");
	pthread_mutex_init(&daemon_.lock, NULL);
	CHECK(!pthread_create(&daemon_.manager, NULL, manager_thread, &daemon_), "a thread");
}

/* All that was sent to the manager before is dealt with, as one does before a restart. */
static void manager_sync(void)
{
	struct pollfd p = { .fd = daemon_.synced[0], .events = POLLIN };
	struct sockaddr_un to;
	char byte;

	manager_path(&to);
	CHECK(sendto(daemon_.notify_sock, SYNC, strlen(SYNC), 0, (struct sockaddr *)&to,
		     sizeof(to)) > 0, "sendto: %m");
	CHECK(poll(&p, 1, 20000 * (int)patience_factor) == 1, "expected the manager to get on");
	CHECK(read(daemon_.synced[0], &byte, 1) == 1, "read: %m");
}

/* What the manager keeps is lost, also what a daemon that was killed sent it last. */
void daemon_forget(void)
{
	manager_sync();
	pthread_mutex_lock(&daemon_.lock);
	while (daemon_.nr_store)
		close(daemon_.store[--daemon_.nr_store].fd);
	pthread_mutex_unlock(&daemon_.lock);
}

/* ---- a daemon ---------------------------------------------------------------------------- */

const char *daemon_program(void)
{
	static char path[512];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	char *slash;
	int i;

	CHECK(n > 0, "/proc/self/exe: %m");
	path[n] = 0;
	/* build/tests/daemon/suite */
	for (i = daemon_.spoilt ? 2 : 0; i < 3; i++) {
		slash = strrchr(path, '/');
		CHECK(slash, "%s: not where it was built", path);
		*slash = 0;
	}
	snprintf(path + strlen(path), sizeof(path) - strlen(path), "/kvtierd");
	return path;
}

/* In the child: the stored descriptors from 3 on, as the manager hands them over. */
static void give_store(void)
{
	char names[STORE_MAX * 8] = "", number[16];
	static int high[STORE_MAX];
	size_t at = 0;
	int i;

	for (i = 0; i < daemon_.nr_store; i++) {
		high[i] = fcntl(daemon_.store[i].fd, F_DUPFD, 3 + daemon_.nr_store);
		if (high[i] < 0) {
			dprintf(STDERR_FILENO, "the manager cannot hand over %d: %s\n",
				daemon_.nr_store, strerror(errno));
			_exit(126);
		}
	}
	for (i = 0; i < daemon_.nr_store; i++) {
		if (daemon_.empty_handed)
			close(3 + i);
		else
			dup2(high[i], 3 + i);
		close(high[i]);
		at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i ? ":" : "",
				       daemon_.store[i].name);
	}
	snprintf(number, sizeof(number), "%d", daemon_.nr_store);
	setenv("LISTEN_FDS", number, 1);
	setenv("LISTEN_FDNAMES", names, 1);
	snprintf(number, sizeof(number), "%d", getpid());
	setenv("LISTEN_PID", number, 1);
}

static void wait_ready(void)
{
	struct pollfd p = { .fd = daemon_.ready[0], .events = POLLIN };
	uint64_t until = now_ms() + 20000 * patience_factor;
	bool ended = false;
	char byte;

	while (poll(&p, 1, 50) != 1 && now_ms() < until && !ended)
		ended = waitpid(daemon_.pid, NULL, WNOHANG) == daemon_.pid;
	if (ended && daemon_logged("cannot share pools without the module"))
		skip("this kernel cannot share pools without the module");
	CHECK(poll(&p, 1, 0) == 1, "expected a daemon that is ready, see %s", daemon_.log);
	CHECK(read(daemon_.ready[0], &byte, 1) == 1, "read: %m");
}

void daemon_spawn(void)
{
	struct sockaddr_un to;
	int log;

	manager_sync();
	manager_path(&to);
	pthread_mutex_lock(&daemon_.lock);
	daemon_.pid = fork();
	if (!daemon_.pid) {
		log = open(daemon_.log, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(log, STDERR_FILENO);
		dup2(log, STDOUT_FILENO);
		give_store();
		setenv("NOTIFY_SOCKET", to.sun_path, 1);
		execl(daemon_program(), "kvtierd", "--config", daemon_.config, NULL);
		_exit(127);
	}
	pthread_mutex_unlock(&daemon_.lock);
	CHECK(daemon_.pid > 0, "fork: %m");
	wait_ready();
}

void daemon_configure(const char *lines)
{
	FILE *file = fopen(daemon_.config, "we");

	CHECK(file, "%s: %m", daemon_.config);
	fprintf(file,
		"[daemon]\nsocket = %s\nstate-dir = %s/state\nmodule = %s\nlog-level = debug\n"
		"[metrics]\nsocket = %s/metrics\n%s\n",
		daemon_.socket, daemon_.dir, want_module ? "yes" : "no", daemon_.dir,
		lines ? lines : "");
	fclose(file);
}

void daemon_start(const char *lines)
{
	manager_start();
	daemon_configure(lines);
	daemon_spawn();
	setenv("KVTIER_SOCKET", daemon_.socket, 1);
}

struct spoil *daemon_spoil(void)
{
	struct spoil *spoil;
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/spoil", daemon_.dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, sizeof(*spoil)), "%s: %m", path);
	spoil = mmap(NULL, sizeof(*spoil), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(spoil != MAP_FAILED, "mmap: %m");
	close(fd);
	setenv("KVTIER_TEST_SPOIL", path, 1);
	daemon_.spoilt = true;
	return spoil;
}

void daemon_start_for_all(const char *lines)
{
	CHECK(!chmod(daemon_.dir, 0755), "chmod: %m");
	daemon_start(lines);
	CHECK(!chmod(daemon_.socket, 0666), "chmod: %m");
}

void daemon_kill(int signal)
{
	int status;

	if (daemon_.pid <= 0)
		return;
	kill(daemon_.pid, signal);
	CHECK(waitpid(daemon_.pid, &status, 0) == daemon_.pid, "waitpid: %m");
	daemon_.pid = 0;
	if (signal == SIGTERM)
		CHECK(WIFEXITED(status) && !WEXITSTATUS(status),
		      "expected a daemon that ends with 0, got status %#x, see its log", status);
}

void daemon_end(void)
{
	int status;

	if (daemon_.pid <= 0)
		return;
	CHECK(!waitpid(daemon_.pid, &status, WNOHANG),
	      "expected a daemon that lives to the end, it ended with status %#x", status);
	daemon_kill(SIGTERM);
}

bool daemon_logged(const char *text)
{
	FILE *file = fopen(daemon_.log, "re");
	char line[2048];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = strstr(line, text);
	if (file)
		fclose(file);
	return found;
}

/* ---- metrics ----------------------------------------------------------------------------- */

static FILE *fetch_metrics(void)
{
	static const char request[] = "GET /metrics HTTP/1.0\r\n\r\n";
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(to.sun_path, sizeof(to.sun_path), "%.90s/metrics", daemon_.dir);
	CHECK(!connect(sock, (struct sockaddr *)&to, sizeof(to)), "%s: %m", to.sun_path);
	CHECK(write(sock, request, strlen(request)) > 0, "write: %m");
	return fdopen(sock, "r");
}

double daemon_metric(const char *begin)
{
	FILE *file = fetch_metrics();
	char line[1024];
	double value = -1;

	while (file && fgets(line, sizeof(line), file)) {
		char *space = strrchr(line, ' ');

		if (space && !strncmp(line, begin, strlen(begin)))
			value = atof(space + 1);
	}
	if (file)
		fclose(file);
	return value;
}

double daemon_cpu_s(void)
{
	unsigned long user = 0, system = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", daemon_.pid);
	file = fopen(path, "re");
	if (file && fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
			   &user, &system) != 2)
		user = system = 0;
	if (file)
		fclose(file);
	return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* ---- other users -------------------------------------------------------------------------- */

void need_root(void)
{
	if (geteuid())
		skip("only root can be other users");
}

pid_t as(uint32_t uid, int (*run)(void))
{
	pid_t pid = fork();

	if (pid)
		return pid;
	if (setgid(uid) || setuid(uid))
		_exit(3);
	_exit(run());
}

int end_of(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %m");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- pools ------------------------------------------------------------------------------- */

struct kvt_client *client(void)
{
	struct kvt_client *c;

	OK(kvt_client_open(NULL, &c));
	return c;
}

struct kvt_pool *pool(struct kvt_client *c, const char *name, uint64_t bytes, uint64_t dram,
		      uint32_t flags)
{
	struct kvt_shared_config config = KVT_SHARED_CONFIG_INIT;
	struct kvt_pool *p;
	int ret;

	config.name = name;
	config.model = "test";
	config.bytes = bytes;
	config.block_bytes = BLOCK;
	config.dram_bytes = dram;
	config.flags = flags;
	/* One of this name may be on its way out. */
	for (ret = -EBUSY; ret == -EBUSY; pause_ms(1))
		ret = kvt_shared_create(c, &config, &p);
	OK(ret);
	return p;
}

uint64_t blocks_of(struct kvt_pool *p)
{
	return kvt_pool_bytes(p) / kvt_pool_block_bytes(p);
}

uint64_t word_of(uint64_t b, uint64_t v, uint64_t i)
{
	return (b + 1) * 0x9e3779b97f4a7c15ull + v * 0xbf58476d1ce4e5b9ull + i;
}

void fill_block(struct kvt_pool *p, uint64_t b, uint64_t v)
{
	size_t bytes = kvt_pool_block_bytes(p), i;
	volatile uint64_t *words = (void *)((char *)kvt_pool_addr(p) + b * bytes);

	for (i = 0; i < bytes / sizeof(*words); i++)
		words[i] = word_of(b, v, i);
}

uint64_t wrong_words(struct kvt_pool *p, uint64_t b, uint64_t v)
{
	size_t bytes = kvt_pool_block_bytes(p), i;
	volatile uint64_t *words = (void *)((char *)kvt_pool_addr(p) + b * bytes);
	uint64_t wrong = 0;

	for (i = 0; i < bytes / sizeof(*words); i++)
		wrong += words[i] != word_of(b, v, i);
	return wrong;
}

uint32_t state_of(struct kvt_pool *p, uint64_t b)
{
	struct kvtier_block_info info;

	OK(kvt_query(p, b, 1, &info));
	return info.state;
}
