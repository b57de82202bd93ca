// SPDX-License-Identifier: MIT
/* Arguments, set-up, signals, the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvtierd.h"

#define DEFAULT_CONFIG "/etc/kvtier/kvtierd.conf"

static void usage(FILE *out)
{
	fputs("usage: kvtierd [--config FILE] [--check]\n"
	      "\n"
	      "Keep KV-cache pools for the processes of this machine: share them, promote ahead of\n"
	      "use, write back, hold tenants to their quotas.\n"
	      "\n"
	      "  -c, --config FILE  read FILE (default " DEFAULT_CONFIG "; not there: defaults)\n"
	      "      --check        check the configuration, say what is wrong, and end\n"
	      "  -h, --help         show this\n"
	      "  -V, --version      show the version\n"
	      "\n"
	      "See kvtierd(8) and kvtierd.conf(5).\n",
	      out);
}

/* ---- timers ------------------------------------------------------------------------------ */

static void watchdog(struct kvtierd *d)
{
	sd_notifyf("WATCHDOG=1");
	timer_within(d, &d->watchdog, sd_watchdog_ns());
}

/* Pools in which nothing happened for long are idle; pools without clients may go. */
static void idle(struct kvtierd *d)
{
	uint64_t after = d->config.idle_ms * NS_PER_MS, least = UINT64_MAX;
	struct pool *p;
	bool any = false;

	for (p = d->pools; p; p = p->next) {
		uint64_t since = d->turn_ns - p->active_ns;

		if (!p->idle && since >= after) {
			p->idle = any = true;
			log_line(LOG_DEBUG, "pool_idle", "pool=%u name=%s tenant=%s", p->id,
				 p->t->name, p->t->tenant);
		} else if (!p->idle && after - since < least) {
			least = after - since;
		}
		if (p->linger_until_ns > d->turn_ns && p->linger_until_ns - d->turn_ns < least)
			least = p->linger_until_ns - d->turn_ns;
	}
	pools_expire(d);
	if (any)
		writeback_kick(d);
	if (least != UINT64_MAX)
		timer_within(d, &d->idle_timer, least + NS_PER_MS);
}

/* ---- signals ----------------------------------------------------------------------------- */

/* Where we listen and keep things is settled at the start. */
static void keep_places(struct config *c, const struct config *old)
{
	memcpy(c->socket, old->socket, sizeof(c->socket));
	memcpy(c->state_dir, old->state_dir, sizeof(c->state_dir));
	memcpy(c->metrics_socket, old->metrics_socket, sizeof(c->metrics_socket));
	c->http_port = old->http_port;
	c->use_module = old->use_module;
	c->attend_threads = old->attend_threads;
	c->attend_queries = old->attend_queries;
}

static void take_over(struct kvtierd *d, struct config *new)
{
	keep_places(new, &d->config);
	d->config = *new;
	log_most = d->config.log_level;
	tenants_reconfigure(d);
	d->count.reloads++;
	log_line(LOG_INFO, "reloaded", "config=%s", d->config_path ? d->config_path : "-");
	writeback_kick(d);
	timer_within(d, &d->idle_timer, 0);
}

static void reload(struct kvtierd *d)
{
	struct config *new = malloc(sizeof(*new));
	int ret;

	if (!new)
		return;
	*new = d->config;
	sd_notifyf("RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)(now_ns() / 1000));
	ret = d->config_path ? config_read(new, d->config_path) : 0;
	if (ret)
		log_line(LOG_ERROR, "reload_refused",
			 "reason=\"%s\" note=\"the old configuration stays\"", kvt_error_detail());
	else
		take_over(d, new);
	free(new);
	sd_notifyf("READY=1");
}

static void signalled(void *arg)
{
	struct kvtierd *d = arg;
	struct signalfd_siginfo info;

	while (read(d->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGHUP)
			reload(d);
		else
			d->stop = true;
	}
}

static int signals_open(struct kvtierd *d)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (d->signal_fd < 0)
		return kvt_fail(-errno, "cannot make a signalfd: %s", strerror(errno));
	d->signal_watch = watch_start(d, d->signal_fd, signalled, d);
	return d->signal_watch ? 0 : -ENOMEM;
}

/* ---- set-up ------------------------------------------------------------------------------ */

static int make_folders(const char *path, mode_t mode)
{
	char part[512], *slash;

	snprintf(part, sizeof(part), "%s", path);
	for (slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(part, 0755);
		*slash = '/';
	}
	if (mkdir(part, mode) && errno != EEXIST)
		return kvt_fail(-errno, "%s: cannot make it: %s", path, strerror(errno));
	return 0;
}

static int folders(struct kvtierd *d)
{
	char path[512], *slash;
	int ret = make_folders(d->config.state_dir, 0700);

	snprintf(path, sizeof(path), "%s", d->config.socket);
	slash = strrchr(path, '/');
	if (!ret && slash && slash != path) {
		*slash = 0;
		ret = make_folders(path, 0755);
	}
	return ret;
}

/*
 * One daemon a socket and a state-dir.  Who is killed loses the lock at once; its socket
 * may seem to listen a little longer, until the kernel has taken its ring apart.
 */
static int take_lock(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return kvt_fail(-errno, "%s: %s", path, strerror(errno));
	if (!flock(fd, LOCK_EX | LOCK_NB))
		return 0; /* held until we end */
	close(fd);
	return kvt_fail(-EADDRINUSE, "%s: another kvtierd has it", path);
}

static int take_locks(struct kvtierd *d)
{
	char path[512];
	int ret;

	snprintf(path, sizeof(path), "%s/.lock", d->config.state_dir);
	ret = take_lock(path);
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "%s.lock", d->config.socket);
	return take_lock(path);
}

static void raise_limits(struct kvtierd *d)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	d->max_fds = limit.rlim_max < UINT32_MAX ? (uint32_t)limit.rlim_max : UINT32_MAX;
}

static int choose_backend(struct kvtierd *d)
{
	d->module = d->config.use_module && !device_probe();
	return d->module ? 0 : file_pool_probe();
}

static void add_timers(struct kvtierd *d)
{
	timer_add(d, &d->watchdog, watchdog);
	timer_add(d, &d->waits, file_wait_deadlines);
	timer_add(d, &d->writeback, writeback_run);
	timer_add(d, &d->scrub_timer, scrub_run);
	timer_add(d, &d->idle_timer, idle);
	timer_add(d, &d->attend_timer, attend_run);
	timer_add(d, &d->unread, clients_unread);
	timer_add(d, &d->plan_timer, plans_run);
	timer_add(d, &d->http_timer, http_run);
	timer_add(d, &d->errand_timer, errands_expire);
	sd_open(d);
	timer_add(d, &d->accept_timer, control_accept);
	timer_add(d, &d->left_timer, devices_left);
	if (sd_watchdog_ns())
		timer_within(d, &d->watchdog, sd_watchdog_ns());
	if (d->config.scrub_every_s)
		timer_within(d, &d->scrub_timer, d->config.scrub_every_s * NS_PER_S);
}

static int set_up(struct kvtierd *d)
{
	int ret;

	pools_take_fds(d);
	raise_limits(d);
	ret = folders(d);
	if (!ret)
		ret = take_locks(d);
	if (!ret)
		ret = choose_backend(d);
	if (!ret)
		ret = loop_init(d);
	if (ret)
		return ret;
	add_timers(d);
	d->errands_end = &d->errands;
	ret = signals_open(d);
	if (!ret)
		ret = job_start(d);
	if (ret)
		return ret;
	pools_take_back(d);
	if (!sd_has_manager() || !d->nr_pools)
		checkpoint_sweep(d);
	ret = http_open(d);
	return ret ? ret : control_open(d);
}

static void tear_down(struct kvtierd *d)
{
	control_close(d);
	attend_stop(d);
	http_close(d);
	job_stop(d);
	errands_stop(d);
	clients_reap(d);
	watch_stop(d->signal_watch);
	loop_exit(d);
}

static int run(struct kvtierd *d)
{
	int ret = set_up(d);

	if (ret) {
		log_line(LOG_ERROR, "start_failed", "reason=\"%s\"",
			 kvt_error_detail()[0] ? kvt_error_detail() : strerror(-ret));
		return 1;
	}
	log_line(LOG_INFO, "started", "version=%s backend=%s socket=%s state-dir=%s pools=%u",
		 kvt_version(), d->module ? "module" : "user", d->config.socket,
		 d->config.state_dir, d->nr_pools);
	sd_notifyf("READY=1");
	loop_run(d);
	sd_notifyf("STOPPING=1");
	log_line(LOG_INFO, "stopping", "pools=%u clients=%u", d->nr_pools, d->nr_clients);
	tear_down(d);
	sd_close();
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "check", no_argument, NULL, 'k' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ 0 },
	};
	static struct kvtierd d = { .listen_fd = -1, .signal_fd = -1 };
	bool check = false;
	int option;

	while ((option = getopt_long(argc, argv, "c:hV", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			d.config_path = optarg;
			break;
		case 'k':
			check = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		case 'V':
			printf("kvtierd %s\n", kvt_version());
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "kvtierd: '%s' is one argument too many; see kvtierd --help\n",
			argv[optind]);
		return 2;
	}
	config_defaults(&d.config);
	if (!d.config_path && !access(DEFAULT_CONFIG, F_OK))
		d.config_path = DEFAULT_CONFIG;
	if (d.config_path && config_read(&d.config, d.config_path)) {
		fprintf(stderr, "kvtierd: %s\n", kvt_error_detail());
		return 1;
	}
	if (check) {
		printf("%s: ok, %u tenants\n", d.config_path ? d.config_path : "defaults",
		       d.config.nr_tenants);
		return 0;
	}
	log_most = d.config.log_level;
	return run(&d);
}
