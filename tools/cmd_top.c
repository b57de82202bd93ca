// SPDX-License-Identifier: MIT
/* kvtier top: pools, tenants and tiers, live. */
#define _GNU_SOURCE
#include <curses.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "option.h"
#include "print.h"
#include "text.h"
#include "top_frame.h"

static volatile sig_atomic_t interrupted;

static const struct option options[] = {
	{ "batch", no_argument, NULL, 'b' },
	{ "count", required_argument, NULL, 'n' },
	{ "delay", required_argument, NULL, 'd' },
	{ "sort", required_argument, NULL, 's' },
	OPTIONS_OF_ALL,
};

struct top {
	struct system system;
	struct pools before, shared_before;
	struct kvt_daemon_tenant *tenants_before;
	uint32_t nr_tenants_before;
	struct timespec looked;
	bool again; /* there was a look before */
	struct top_frame frame;

	bool batch, paused, helping;
	long count; /* looks left; 0: no end */
	double delay;
	enum top_sort sort;
	int scroll;
};

static int help(void)
{
	puts("usage: kvtier top [OPTION...]\n\n"
	     "Show tiers, tenants and pools again and again: bandwidth, late pages, and the part\n"
	     "of the transfer time that nobody waited for.\n\n"
	     "  -b, --batch          text instead of a screen\n"
	     "  -n, --count N        end after N looks\n"
	     "  -d, --delay SECONDS  between two looks (default: 1)\n"
	     "  -s, --sort BY        read (default), late, dram, size or name\n"
	     "  --json               one JSON object a look; implies --batch\n"
	     "  -h, --help           show this help\n\n"
	     "Keys: q quit, s sort by the next, space pause, + and - delay, up and down scroll,\n"
	     "h help. Exit status: 0; 1 the pools cannot be read, or this is no terminal; 2 usage.");
	return 0;
}

static int take_sort(struct top *t, const char *text)
{
	int i;

	for (i = 0; i < TOP_NR_SORTS; i++) {
		if (!strcmp(top_sorts[i], text)) {
			t->sort = (enum top_sort)i;
			return 0;
		}
	}
	return fail(EXIT_USAGE, "--sort: '%s' is not read, late, dram, size or name", text);
}

static int take_option(void *command, int option)
{
	struct top *t = command;
	double count;
	int ret;

	switch (option) {
	case 'b':
		t->batch = true;
		return 0;
	case 'n':
		ret = option_number("count", optarg, 1, 1e9, &count);
		t->count = ret ? 0 : (long)count;
		return ret;
	case 'd':
		return option_number("delay", optarg, 0.1, 3600, &t->delay);
	default:
		return take_sort(t, optarg);
	}
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(struct top *t, int argc, char **argv)
{
	static const struct option_set set = { ":bn:d:s:h", options, EXIT_USAGE, take_option };
	int ret = option_take(argc, argv, &set, t);

	if (!ret)
		ret = option_end(argc, argv, 0);
	if (ret)
		return ret;
	t->batch |= json_errors;
	if (!t->batch && (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO)))
		return fail(1, "this is no terminal: use `kvtier top --batch`");
	return 0;
}

/* ---- looking ------------------------------------------------------------------- */

static double seconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

/* What is shown now becomes what the next look is compared with. */
static void keep(struct top *t)
{
	pools_free(&t->before);
	t->before = t->system.pools;
	t->system.pools = (struct pools){ 0 };
	pools_free(&t->shared_before);
	t->shared_before = t->system.shared;
	t->system.shared = (struct pools){ 0 };
	free(t->tenants_before);
	t->tenants_before = t->system.tenants;
	t->nr_tenants_before = t->system.nr_tenants;
	t->system.tenants = NULL;
	t->system.nr_tenants = 0;
}

static int look(struct top *t, struct top_look *look)
{
	double seconds = t->again ? seconds_since(&t->looked) : 0;
	int ret;

	if (t->again)
		keep(t);
	ret = system_read(&t->system);
	clock_gettime(CLOCK_MONOTONIC, &t->looked);
	*look = (struct top_look){ .now = &t->system,
				   .before = t->again ? &t->before : NULL,
				   .shared_before = t->again ? &t->shared_before : NULL,
				   .tenants_before = t->tenants_before,
				   .nr_tenants_before = t->nr_tenants_before,
				   .seconds = seconds,
				   .sort = t->sort };
	t->again = true;
	return ret ? fail(1, "cannot read the pools' files: %s", strerror(-ret)) : 0;
}

/* ---- as text ------------------------------------------------------------------- */

static void pause_for(double seconds)
{
	struct timespec t = { .tv_sec = (time_t)seconds,
			      .tv_nsec = (long)((seconds - floor(seconds)) * 1e9) };

	nanosleep(&t, NULL);
}

static int show_batch(struct top *t)
{
	struct top_look now;
	int ret = 0, i;

	while (!ret) {
		ret = look(t, &now);
		if (ret)
			break;
		if (json_errors) {
			ret = print_object(top_json(&now));
		} else {
			top_draw(&t->frame, &now);
			for (i = 0; i < t->frame.nr; i++)
				puts(t->frame.line[i]);
			putchar('\n');
		}
		fflush(stdout);
		if (ferror(stdout) || (t->count && !--t->count))
			break;
		pause_for(t->delay);
	}
	return ret;
}

/* ---- on a screen --------------------------------------------------------------- */

static void draw_help(void)
{
	static const char *const lines[] = {
		"q      quit",
		"s      sort by the next of read, late, dram, size, name",
		"space  pause, or go on",
		"+ -    look less often, more often",
		"up dn  scroll the pools",
		"h      this help, or back",
		"",
		"READ/s, WRITE/s: bytes from and to NVMe. LATE/s: faults on blocks",
		"that were under way. HIDDEN: part of the time with reads under way",
		"in which nobody waited for one. A dash: nothing has happened yet.",
	};
	size_t i;

	for (i = 0; i < sizeof(lines) / sizeof(lines[0]) && (int)i < LINES; i++)
		mvaddnstr((int)i, 2, lines[i], COLS - 2);
}

static void draw(struct top *t)
{
	const struct top_frame *f = &t->frame;
	/* On a screen too small for the head, all scrolls but its first line. */
	int fixed = f->first_pool <= LINES - 3 ? f->first_pool : 1;
	int y, line, most = f->nr - fixed - 1;

	erase();
	if (t->helping) {
		draw_help();
		refresh();
		return;
	}
	t->scroll = t->scroll > most ? most : t->scroll;
	t->scroll = t->scroll < 0 ? 0 : t->scroll;
	for (y = 0; y < LINES; y++) {
		line = y < fixed ? y : y + t->scroll;
		if (line >= f->nr)
			break;
		attrset(f->style[line] == TOP_HEAD  ? A_REVERSE :
			f->style[line] == TOP_WRONG ? A_BOLD :
						      A_NORMAL);
		mvaddnstr(y, 0, f->line[line], text_bytes(f->line[line], COLS));
		if (f->style[line] == TOP_HEAD)
			mvchgat(y, 0, COLS, A_REVERSE, 0, NULL);
	}
	attrset(A_NORMAL);
	if (t->paused)
		mvaddnstr(0, COLS > 10 ? COLS - 8 : 0, "[paused]", COLS);
	refresh();
}

/* False: to quit. */
static bool take_key(struct top *t, int key)
{
	switch (key) {
	case 'q':
		return false;
	case 's':
		t->sort = (enum top_sort)((t->sort + 1) % TOP_NR_SORTS);
		break;
	case ' ':
		t->paused = !t->paused;
		break;
	case '+':
		t->delay = fmin(3600, t->delay * 2);
		break;
	case '-':
		t->delay = fmax(0.1, t->delay / 2);
		break;
	case KEY_DOWN:
		t->scroll++;
		break;
	case KEY_UP:
		t->scroll--;
		break;
	case 'h':
	case '?':
		t->helping = !t->helping;
		break;
	default:
		break;
	}
	return true;
}

static void on_interrupt(int signal)
{
	(void)signal;
	interrupted = 1;
}

/* Keys until the next look is due. */
static bool wait_for_keys(struct top *t)
{
	double left;
	int key;

	while ((left = t->delay - seconds_since(&t->looked)) > 0 || t->paused) {
		timeout(left > 0.2 || t->paused ? 200 : (int)(left * 1000) + 1);
		key = getch();
		if (interrupted)
			return false;
		if (key == ERR)
			continue;
		if (!take_key(t, key))
			return false;
		if (key == 's')
			return true; /* sorted anew at once */
		draw(t);
	}
	return true;
}

static int show_screen(struct top *t)
{
	struct sigaction action = { .sa_handler = on_interrupt };
	struct top_look now;
	int ret;

	setlocale(LC_CTYPE, "");
	if (!newterm(NULL, stdout, stdin))
		return fail(1, "the terminal '%s' is not known: use `kvtier top --batch`",
			    getenv("TERM") ? getenv("TERM") : "");
	sigaction(SIGINT, &action, NULL); /* as q, which restores the screen, too */
	sigaction(SIGTERM, &action, NULL);
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	curs_set(0);
	do {
		ret = look(t, &now);
		if (ret)
			break;
		top_draw(&t->frame, &now);
		draw(t);
	} while (!(t->count && !--t->count) && wait_for_keys(t));
	endwin();
	return ret;
}

int cmd_top(int argc, char **argv)
{
	struct top *t = calloc(1, sizeof(*t));
	int ret;

	if (!t)
		return fail(1, "out of memory");
	t->delay = 1;
	ret = parse(t, argc, argv);
	if (ret) {
		free(t);
		return ret < 0 ? help() : ret;
	}
	system_open(&t->system);
	ret = t->batch ? show_batch(t) : show_screen(t);
	system_close(&t->system);
	pools_free(&t->before);
	pools_free(&t->shared_before);
	free(t->tenants_before);
	free(t);
	return ret;
}
