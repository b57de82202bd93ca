// SPDX-License-Identifier: MIT
/* NUMA nodes with CPUs, and which of them is next to a query's blocks. */
#define _GNU_SOURCE
#include <numa.h>
#include <numaif.h>
#include <sched.h>

#include "attention.h"

/* Blocks of a query that are looked at. */
#define SAMPLES 64u

static bool is_listed(const struct attend_service *s, int number)
{
	uint32_t i;

	for (i = 0; i < s->nr_nodes; i++)
		if (s->nodes[i].number == number)
			return true;
	return false;
}

/* Those with CPUs that we may use. */
void nodes_find(struct attend_service *s)
{
	cpu_set_t set;
	int cpu;

	if (numa_available() >= 0 && !sched_getaffinity(0, sizeof(set), &set)) {
		for (cpu = 0; cpu < CPU_SETSIZE && s->nr_nodes < ATTEND_NODES; cpu++) {
			int number = CPU_ISSET(cpu, &set) ? numa_node_of_cpu(cpu) : -1;

			if (number >= 0 && !is_listed(s, number))
				s->nodes[s->nr_nodes++].number = number;
		}
	}
	if (!s->nr_nodes)
		s->nr_nodes = 1;
}

/* Memory without CPUs, CXL say, is next to the nearest that has some. */
static uint32_t nearest(const struct attend_service *s, int memory)
{
	uint32_t i, best = 0;

	for (i = 0; i < s->nr_nodes; i++) {
		if (s->nodes[i].number == memory)
			return i;
		if (numa_distance(memory, s->nodes[i].number) <
		    numa_distance(memory, s->nodes[best].number))
			best = i;
	}
	return best;
}

/* The node of a block that is in memory; -1: it is not. */
static int node_of(const struct pool *p, uint32_t b)
{
	struct kvtier_block_info info;
	int node;

	if (p->module)
		return device_pool_query((struct pool *)p, b, 1, &info) ? -1 : info.node;
	if (block_of(p, b)->where != W_RESIDENT ||
	    get_mempolicy(&node, NULL, 0, block_addr(p, b), MPOL_F_NODE | MPOL_F_ADDR))
		return -1;
	return node;
}

uint32_t nodes_choose(struct attend_service *s, const struct query *q)
{
	uint32_t votes[ATTEND_NODES] = { 0 }, i, best = 0;
	uint32_t step = q->q.nr_blocks / SAMPLES + 1;

	for (i = 0; s->nr_nodes > 1 && i < q->q.nr_blocks; i += step) {
		uint64_t offset =
			(uint64_t)((const char *)q->blocks[i].k - q->ring->reader.view.addr);
		int node = node_of(q->pool, (uint32_t)(offset >> q->pool->shift));

		if (node >= 0)
			votes[nearest(s, node)]++;
	}
	for (i = 1; i < s->nr_nodes; i++)
		if (votes[i] > votes[best] ||
		    (votes[i] == votes[best] &&
		     lanes_running(&s->nodes[i], NULL) < lanes_running(&s->nodes[best], NULL)))
			best = i;
	return best;
}
