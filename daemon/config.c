// SPDX-License-Identifier: MIT
/*
 * The configuration file: sections, keys and values, read by inih.  One table says
 * what each key is; whatever is not in it is refused with its line.
 */
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "kvtierd.h"

enum kind { TEXT, BYTES, NUMBER, BOOL, MODE, LEVEL, USERS };

struct key {
	const char *section; /* "tenant": [tenant NAME] and, for quotas, [default] */
	const char *name;
	enum kind kind;
	size_t offset;
	size_t room; /* of texts */
	uint64_t least, most; /* of numbers */
};

#define AT(field) offsetof(struct config, field)
#define IN(field) offsetof(struct tenant_config, field)
#define ROOM(type, field) sizeof(((struct type *)0)->field)

static const struct key keys[] = {
	{ "daemon", "socket", TEXT, AT(socket), ROOM(config, socket), 0, 0 },
	{ "daemon", "socket-mode", MODE, AT(socket_mode), 0, 0, 0777 },
	{ "daemon", "state-dir", TEXT, AT(state_dir), ROOM(config, state_dir), 0, 0 },
	{ "daemon", "module", BOOL, AT(use_module), 0, 0, 0 },
	{ "daemon", "max-clients", NUMBER, AT(max_clients), 0, 1, 100000 },
	{ "daemon", "max-pools", NUMBER, AT(max_pools), 0, 1, 100000 },
	{ "daemon", "linger-ms", NUMBER, AT(linger_ms), 0, 0, UINT32_MAX },
	{ "daemon", "log-level", LEVEL, AT(log_level), 0, 0, 0 },
	{ "metrics", "socket", TEXT, AT(metrics_socket), ROOM(config, metrics_socket), 0, 0 },
	{ "metrics", "http-port", NUMBER, AT(http_port), 0, 0, 65535 },
	{ "metrics", "pools", BOOL, AT(metrics_pools), 0, 0, 0 },
	{ "tiers", "dram", BYTES, AT(limit[KVTIER_TIER_DRAM]), 0, 0, 0 },
	{ "tiers", "cxl", BYTES, AT(limit[KVTIER_TIER_CXL]), 0, 0, 0 },
	{ "tiers", "nvme", BYTES, AT(limit[KVTIER_TIER_NVME]), 0, 0, 0 },
	{ "writeback", "rate", BYTES, AT(write_rate), 0, 0, 0 },
	{ "writeback", "wear-filter", BOOL, AT(wear_filter), 0, 0, 0 },
	{ "idle", "after-ms", NUMBER, AT(idle_ms), 0, 1, UINT32_MAX },
	{ "idle", "drain-above", NUMBER, AT(drain_above), 0, 0, 100 },
	{ "scrub", "rate", BYTES, AT(scrub_rate), 0, 0, 0 },
	{ "scrub", "every-s", NUMBER, AT(scrub_every_s), 0, 0, UINT32_MAX },
	{ "attend", "threads", NUMBER, AT(attend_threads), 0, 0, 1024 },
	{ "attend", "queries", NUMBER, AT(attend_queries), 0, 1, 64 },
	{ "tenant", "dram", BYTES, IN(quota[KVTIER_TIER_DRAM]), 0, 0, 0 },
	{ "tenant", "cxl", BYTES, IN(quota[KVTIER_TIER_CXL]), 0, 0, 0 },
	{ "tenant", "nvme", BYTES, IN(quota[KVTIER_TIER_NVME]), 0, 0, 0 },
	{ "tenant", "max-clients", NUMBER, IN(max_clients), 0, 1, 100000 },
	{ "tenant", "max-pools", NUMBER, IN(max_pools), 0, 1, 100000 },
	{ "tenant", "max-metadata", BYTES, IN(max_metadata), 0, 0, 0 },
	{ "tenant", "weight", NUMBER, IN(weight), 0, 1, 1000 },
	{ "tenant", "cgroup", TEXT, IN(cgroup), ROOM(tenant_config, cgroup), 0, 0 },
	{ "tenant", "user", USERS, IN(uid_first), 0, 0, 0 },
};

/* Half of what the daemon has for all, and tables of a pool of 1 TiB of the smallest blocks. */
#define TENANT_DEFAULTS                                                                        \
	{ .weight = 1, .uid_first = 1, .max_clients = 2048, .max_pools = 4096,                 \
	  .max_metadata = 4ull << 30 }

void config_defaults(struct config *c)
{
	*c = (struct config){
		.socket = KVT_DAEMON_SOCKET,
		.socket_mode = 0660,
		.state_dir = "/var/lib/kvtier",
		.metrics_socket = "/run/kvtier/metrics.sock",
		.use_module = true,
		.cxl_node = -1,
		.write_rate = 200u << 20,
		.wear_filter = true,
		.idle_ms = 10000,
		.drain_above = 75,
		.scrub_rate = 50u << 20,
		.linger_ms = 60000,
		.max_clients = 4096,
		.max_pools = 8192,
		.attend_threads = 0,
		.attend_queries = 4,
		.log_level = LOG_INFO,
		.default_tenant = TENANT_DEFAULTS,
	};
}

struct reading {
	struct config *c;
	char error[256];
};

static int complain(struct reading *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static int complain(struct reading *r, const char *fmt, ...)
{
	va_list args;

	if (r->error[0])
		return -EINVAL;
	va_start(args, fmt);
	vsnprintf(r->error, sizeof(r->error), fmt, args);
	va_end(args);
	return -EINVAL;
}

/* ---- values ------------------------------------------------------------------------------ */

static int number(const char *text, uint64_t *value, const char **rest)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	*rest = end;
	return !isdigit((unsigned char)*text) || errno ? -EINVAL : 0;
}

static int bytes_value(const char *text, uint64_t *value)
{
	static const char units[] = "KMGT";
	const char *rest, *unit;

	if (number(text, value, &rest))
		return -EINVAL;
	if (!*rest)
		return 0;
	unit = strchr(units, toupper((unsigned char)*rest));
	if (!unit || rest[1])
		return -EINVAL;
	if (*value > UINT64_MAX >> (10 * (unit - units + 1)))
		return -EINVAL;
	*value <<= 10 * (unit - units + 1);
	return 0;
}

static int bool_value(const char *text, bool *value)
{
	*value = !strcmp(text, "yes") || !strcmp(text, "true") || !strcmp(text, "on");
	return *value || !strcmp(text, "no") || !strcmp(text, "false") || !strcmp(text, "off") ?
		       0 :
		       -EINVAL;
}

static int level_value(const char *text, enum log_level *level)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = { { "error", LOG_ERROR },
		       { "warning", LOG_WARNING },
		       { "info", LOG_INFO },
		       { "debug", LOG_DEBUG } };
	size_t i;

	for (i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (!strcmp(text, levels[i].name)) {
			*level = levels[i].level;
			return 0;
		}
	}
	return -EINVAL;
}

/* A name, a number, or a range of numbers. */
static int users_value(const char *text, uint32_t uids[2])
{
	const struct passwd *user = getpwnam(text);
	uint64_t first, last;
	const char *rest;

	if (user) {
		uids[0] = uids[1] = user->pw_uid;
		return 0;
	}
	if (number(text, &first, &rest))
		return -EINVAL;
	last = first;
	if (*rest == '-' && (number(rest + 1, &last, &rest) || last < first))
		return -EINVAL;
	if (*rest || last >= UINT32_MAX)
		return -EINVAL;
	uids[0] = (uint32_t)first;
	uids[1] = (uint32_t)last;
	return 0;
}

static int number_value(struct reading *r, const struct key *key, const char *text, void *to)
{
	const char *rest;
	uint64_t value;

	if (number(text, &value, &rest) || *rest || value < key->least || value > key->most)
		return complain(r, "%s: '%s' is not a number from %llu to %llu", key->name, text,
				(unsigned long long)key->least, (unsigned long long)key->most);
	if (!strcmp(key->name, "every-s"))
		*(uint64_t *)to = value;
	else
		*(uint32_t *)to = (uint32_t)value;
	return 0;
}

static int mode_value(struct reading *r, const struct key *key, const char *text, uint32_t *mode)
{
	char *end;
	unsigned long value = strtoul(text, &end, 8);

	if (*end || end == text || value > key->most)
		return complain(r, "%s: '%s' is not an octal mode such as 0660", key->name, text);
	*mode = (uint32_t)value;
	return 0;
}

static int text_value(struct reading *r, const struct key *key, const char *text, char *to)
{
	if (strlen(text) >= key->room)
		return complain(r, "%s: longer than %zu bytes", key->name, key->room - 1);
	if (*text && *text != '/')
		return complain(r, "%s: '%s' does not begin with /", key->name, text);
	snprintf(to, key->room, "%s", text);
	return 0;
}

static int set(struct reading *r, const struct key *key, const char *text, void *to)
{
	switch (key->kind) {
	case TEXT:
		return text_value(r, key, text, to);
	case NUMBER:
		return number_value(r, key, text, to);
	case MODE:
		return mode_value(r, key, text, to);
	case BYTES:
		return bytes_value(text, to) ?
			       complain(r, "%s: '%s' is not a size such as 512M or 8G", key->name,
					text) : 0;
	case BOOL:
		return bool_value(text, to) ?
			       complain(r, "%s: '%s' is neither yes nor no", key->name, text) : 0;
	case LEVEL:
		return level_value(text, to) ?
			       complain(r, "%s: '%s' is none of error, warning, info, debug",
					key->name, text) : 0;
	case USERS:
		return users_value(text, to) ?
			       complain(r, "%s: '%s' is no user, number or range of numbers here",
					key->name, text) : 0;
	}
	return -EINVAL;
}

/* ---- sections ---------------------------------------------------------------------------- */

static struct tenant_config *tenant_section(struct reading *r, const char *name)
{
	struct config *c = r->c;
	struct tenant_config *t;
	uint32_t i;

	for (i = 0; i < c->nr_tenants; i++)
		if (!strcmp(c->tenants[i].name, name))
			return &c->tenants[i];
	if (!*name || strlen(name) >= sizeof(t->name) || strpbrk(name, "/ \"\\")) {
		complain(r, "[tenant %s]: a name has 1 to %zu letters, without / and blanks", name,
			 sizeof(t->name) - 1);
		return NULL;
	}
	if (c->nr_tenants == MAX_TENANTS) {
		complain(r, "more than %d tenants", MAX_TENANTS);
		return NULL;
	}
	t = &c->tenants[c->nr_tenants++];
	*t = (struct tenant_config)TENANT_DEFAULTS;
	snprintf(t->name, sizeof(t->name), "%s", name);
	return t;
}

static const struct key *find(const char *section, const char *name, bool *known)
{
	size_t i;

	*known = false;
	for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
		if (strcmp(keys[i].section, section))
			continue;
		*known = true;
		if (!strcmp(keys[i].name, name))
			return &keys[i];
	}
	return NULL;
}

/* inih's handler: 0 says that the line is wrong. */
static int take(void *arg, const char *section, const char *name, const char *value)
{
	struct reading *r = arg;
	bool is_tenant = !strncmp(section, "tenant ", 7), is_default = !strcmp(section, "default");
	const char *kind = is_tenant || is_default ? "tenant" : section;
	char *base = (char *)r->c;
	const struct key *key;
	bool known = false;

	key = !strcmp(section, "tenant") ? NULL : find(kind, name, &known);
	if (!strcmp(section, "tenant") || !known)
		return complain(r, "there is no section [%s]", section) && 0;
	if (!key)
		return complain(r, "[%s] has no key '%s'", section, name) && 0;
	if (is_default) {
		if (key->kind == USERS || key->kind == TEXT)
			return complain(r, "[default] has no key '%s'", name) && 0;
		base = (char *)&r->c->default_tenant;
	} else if (is_tenant) {
		base = (char *)tenant_section(r, section + 7);
		if (!base)
			return 0;
	}
	return !set(r, key, value, base + key->offset);
}

/* What only the whole file can be wrong in. */
static int check_whole(const struct config *c, const char *path)
{
	uint32_t i;

	for (i = 0; i < c->nr_tenants; i++) {
		const struct tenant_config *t = &c->tenants[i];

		if (!t->cgroup[0] && t->uid_first > t->uid_last)
			return kvt_fail(-EINVAL,
					"%s: [tenant %s] needs user or cgroup: nobody is of it",
					path, t->name);
	}
	if (!c->state_dir[0] || !c->socket[0])
		return kvt_fail(-EINVAL, "%s: [daemon] socket and state-dir cannot be empty", path);
	return 0;
}

int config_read(struct config *c, const char *path)
{
	struct reading r = { .c = c };
	FILE *file = fopen(path, "re");
	int line;

	config_defaults(c);
	if (!file)
		return kvt_fail(-errno, "%s: %s", path, strerror(errno));
	line = ini_parse_file(file, take, &r);
	fclose(file);
	if (line > 0)
		return kvt_fail(-EINVAL, "%s:%d: %s", path, line,
				r.error[0] ? r.error : "neither a section nor 'key = value'");
	if (line < 0)
		return kvt_fail(-EINVAL, "%s: cannot be read", path);
	return check_whole(c, path);
}
