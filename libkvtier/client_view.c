// SPDX-License-Identifier: MIT
/* What an operator sees and sets. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "error.h"

/* A request with a fixed body and a fixed answer; 0 or a negative errno. */
static int ask_fixed_of(struct kvt_client *c, struct kvt_shared *pool, uint16_t type,
			const void *body, size_t bytes, void *answer, size_t room)
{
	struct kvt_ask ask = KVT_ASK_INIT(type);
	int ret;

	ask.pool = pool;
	ask.body = body;
	ask.bytes = bytes;
	ask.answer = answer;
	ask.room = room;
	ret = kvt_client_ask(c, &ask);
	if (ret < 0)
		return ret;
	if ((size_t)ret != room)
		return kvt_fail(-EPROTO, "the daemon's answer has %d bytes, not %zu", ret, room);
	return 0;
}

static int ask_fixed(struct kvt_client *c, uint16_t type, const void *body, size_t bytes,
		     void *answer, size_t room)
{
	return ask_fixed_of(c, NULL, type, body, bytes, answer, room);
}

int kvt_daemon_status(struct kvt_client *client, struct kvt_daemon_status *status)
{
	return ask_fixed(client, KVT_MSG_STATUS, NULL, 0, status, sizeof(*status));
}

/* A page of a list into @entries; the answer's head says how many it has. */
static int ask_page(struct kvt_client *c, uint16_t type, uint32_t first, struct kvt_list *page)
{
	struct kvt_list want = { .first = first };
	struct kvt_ask ask = KVT_ASK_INIT(type);
	int ret;

	ask.body = &want;
	ask.bytes = sizeof(want);
	ask.answer = page;
	ask.room = KVT_MSG_MAX;
	ret = kvt_client_ask(c, &ask);
	if (ret >= 0 && ret < (int)sizeof(*page))
		return kvt_fail(-EPROTO, "the daemon's list is cut short");
	return ret;
}

static int ask_list(struct kvt_client *c, uint16_t type, void *entries, size_t each, uint32_t room)
{
	struct kvt_list *page = malloc(KVT_MSG_MAX);
	uint32_t have = 0, nr = 0;
	int ret = 0;

	if (!page)
		return -ENOMEM;
	do {
		ret = ask_page(c, type, have, page);
		if (ret < 0)
			break;
		nr = page->nr;
		if ((size_t)ret != sizeof(*page) + nr * each) {
			ret = kvt_fail(-EPROTO, "the daemon's list has entries of another size");
			break;
		}
		ret = (int)page->total;
		if (nr > room - have)
			nr = room - have;
		if (nr)
			memcpy((char *)entries + have * each, page + 1, nr * each);
		have += nr;
	} while (nr && have < room && have < page->total);
	free(page);
	return ret;
}

int kvt_daemon_pools(struct kvt_client *client, struct kvt_daemon_pool *pools, uint32_t room)
{
	return ask_list(client, KVT_MSG_POOLS, pools, sizeof(*pools), room);
}

int kvt_daemon_tenants(struct kvt_client *client, struct kvt_daemon_tenant *tenants, uint32_t room)
{
	return ask_list(client, KVT_MSG_TENANTS, tenants, sizeof(*tenants), room);
}

int kvt_daemon_tiers(struct kvt_client *client, struct kvt_daemon_tier *tiers, uint32_t room)
{
	return ask_list(client, KVT_MSG_TIERS, tiers, sizeof(*tiers), room);
}

int kvt_daemon_stats(struct kvt_client *client, uint32_t id, struct kvtier_stats *stats)
{
	struct kvt_pool_id pool = { .pool = id };

	return ask_fixed(client, KVT_MSG_STATS, &pool, sizeof(pool), stats, sizeof(*stats));
}

int kvt_view_query(struct kvt_client *client, struct kvt_shared *pool, uint32_t id, uint64_t first,
		   uint32_t nr, struct kvtier_block_info *infos)
{
	uint32_t at, now;
	int ret = 0;

	for (at = 0; !ret && at < nr; at += now) {
		struct kvt_query_msg msg;

		now = nr - at < KVT_INFOS_MAX ? nr - at : KVT_INFOS_MAX;
		msg = (struct kvt_query_msg){ .pool = id, .nr = now, .first = first + at };
		ret = ask_fixed_of(client, pool, KVT_MSG_QUERY, &msg, sizeof(msg), infos + at,
				   now * sizeof(*infos));
	}
	return ret;
}

int kvt_daemon_query(struct kvt_client *client, uint32_t id, uint64_t first, uint32_t nr,
		     struct kvtier_block_info *infos)
{
	return kvt_view_query(client, NULL, id, first, nr, infos);
}

int kvt_daemon_set_quota(struct kvt_client *client, const char *tenant, uint32_t tier,
			 uint64_t bytes)
{
	struct kvt_quota quota = { .tier = tier, .bytes = bytes };

	if (strlen(tenant) >= sizeof(quota.tenant))
		return kvt_fail(-EINVAL, "a tenant's name has at most %zu bytes",
				sizeof(quota.tenant) - 1);
	memcpy(quota.tenant, tenant, strlen(tenant));
	return ask_fixed(client, KVT_MSG_QUOTA, &quota, sizeof(quota), NULL, 0);
}

static int ask_pool(struct kvt_client *client, uint16_t type, uint32_t id, uint64_t value)
{
	struct kvt_pool_id pool = { .pool = id, .value = value };

	return ask_fixed(client, type, &pool, sizeof(pool), NULL, 0);
}

int kvt_daemon_set_budget(struct kvt_client *client, uint32_t id, uint64_t bytes)
{
	return ask_pool(client, KVT_MSG_BUDGET, id, bytes);
}

int kvt_daemon_scrub(struct kvt_client *client, uint32_t id)
{
	return ask_pool(client, KVT_MSG_SCRUB, id, 0);
}

int kvt_daemon_scrub_status(struct kvt_client *client, struct kvt_daemon_scrub *scrub)
{
	return ask_fixed(client, KVT_MSG_SCRUB_STATUS, NULL, 0, scrub, sizeof(*scrub));
}

int kvt_daemon_checkpoint(struct kvt_client *client, uint32_t id)
{
	return ask_pool(client, KVT_MSG_CHECKPOINT, id, 0);
}
