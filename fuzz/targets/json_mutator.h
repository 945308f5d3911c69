/*
 * Mutations of JSON that leave it JSON: members and elements go, come twice,
 * change places, get values at the edges.  Bytes alone hardly ever get past a
 * strict parser.  The JSON is what lies between `at` and the next NUL.
 */
#ifndef WSLX_FUZZ_JSON_MUTATOR_H
#define WSLX_FUZZ_JSON_MUTATOR_H

#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

#define JM_MAX_PLACES 256u

/* Where a value is. */
struct jm_place {
	json_t *in;
	const char *key; /* NULL: an array's element */
	size_t index;
	json_t *v;
};

struct jm {
	struct jm_place place[JM_MAX_PLACES];
	unsigned n;
	unsigned seed;
};

static inline unsigned jm_random(struct jm *m, unsigned below)
{
	m->seed = m->seed * 1103515245u + 12345u;
	return (m->seed >> 16) % below;
}

static inline void jm_collect(struct jm *m, json_t *in)
{
	const char *key;
	json_t *v;
	size_t i;

	json_object_foreach (in, key, v) {
		if (m->n < JM_MAX_PLACES)
			m->place[m->n++] = (struct jm_place) { .in = in, .key = key, .v = v };
		jm_collect(m, v);
	}
	json_array_foreach (in, i, v) {
		if (m->n < JM_MAX_PLACES)
			m->place[m->n++] = (struct jm_place) { .in = in, .index = i, .v = v };
		jm_collect(m, v);
	}
}

static inline json_t *jm_text(struct jm *m, const char *old)
{
	static const size_t lengths[] = { 0, 1, 7, 8, 9, 15, 16, 17, 20, 21, 63, 64, 65, 255, 256, 257, 4096, 4097 };
	char buf[4100];
	size_t n = strlen(old), k = lengths[jm_random(m, ARRAY_SIZE(lengths))];

	if (n > 256)
		n = 256;
	memcpy(buf, old, n);
	if (jm_random(m, 3)) {
		/* Bytes that are no UTF-8 do not come out; the next try may. */
		n = LLVMFuzzerMutate((uint8_t *)buf, n, 300);
		return json_stringn_nocheck(buf, n);
	}
	for (size_t i = n; i < k; i++)
		buf[i] = n ? buf[i % n] : 'a';
	return json_stringn_nocheck(buf, k);
}

static inline json_t *jm_number(struct jm *m, json_int_t old)
{
	static const json_int_t edges[] = { 0,   1,     -1,    2,         64,         65,        255,
					    256, 65535, 65536, INT32_MAX, UINT32_MAX, INT64_MAX, INT64_MIN };
	uint64_t v = (uint64_t)old;

	switch (jm_random(m, 4)) {
	case 0:
		return json_integer((json_int_t)(v + 1));
	case 1:
		return json_integer((json_int_t)(v - 1));
	case 2:
		return json_integer((json_int_t)(v << jm_random(m, 24)));
	default:
		return json_integer(edges[jm_random(m, ARRAY_SIZE(edges))]);
	}
}

static inline json_t *jm_other(struct jm *m)
{
	switch (jm_random(m, 7)) {
	case 0:
		return json_null();
	case 1:
		return json_boolean(jm_random(m, 2));
	case 2:
		return json_object();
	case 3:
		return json_array();
	case 4:
		return json_string("");
	default: /* what stands elsewhere */
		return json_deep_copy(m->place[jm_random(m, m->n)].v);
	}
}

static inline json_t *jm_changed(struct jm *m, const json_t *v)
{
	if (json_is_string(v) && jm_random(m, 4))
		return jm_text(m, json_string_value(v));
	if (json_is_integer(v) && jm_random(m, 4))
		return jm_number(m, json_integer_value(v));
	if (json_is_boolean(v) && jm_random(m, 4))
		return json_boolean(!json_is_true(v));
	return jm_other(m);
}

static inline void jm_change(struct jm *m)
{
	struct jm_place *p = &m->place[jm_random(m, m->n)];
	unsigned times;

	switch (jm_random(m, 8)) {
	case 0: /* away with it */
		if (p->key)
			json_object_del(p->in, p->key);
		else
			json_array_remove(p->in, p->index);
		break;
	case 1: /* once more, or many times; or under another's name */
		if (p->key) {
			json_object_set_new(p->in, m->place[jm_random(m, m->n)].key ?: "x", json_deep_copy(p->v));
			break;
		}
		times = jm_random(m, 3) ? 1 : 1 + jm_random(m, 70);
		for (unsigned i = 0; i < times; i++)
			json_array_insert_new(p->in, p->index, json_deep_copy(p->v));
		break;
	case 2:
		if (json_is_array(p->v)) {
			json_array_append_new(p->v, jm_other(m));
			break;
		}
		__attribute__((fallthrough));
	default:
		if (p->key)
			json_object_set_new(p->in, p->key, jm_changed(m, p->v));
		else
			json_array_set_new(p->in, p->index, jm_changed(m, p->v));
		break;
	}
}

static inline size_t jm_mutate(uint8_t *data, size_t size, size_t max, unsigned seed, size_t at)
{
	struct jm m = { .seed = seed };
	const uint8_t *nul = size > at ? memchr(data + at, 0, size - at) : NULL;
	size_t end = nul ? (size_t)(nul - data) : size, n;
	json_t *root = NULL;
	char *text = NULL;

	if (seed % 4 && size > at)
		root = json_loadb((const char *)data + at, end - at, JSON_REJECT_DUPLICATES, NULL);
	for (unsigned i = 1 + seed / 4 % 3; root && i; i--) {
		m.n = 0;
		jm_collect(&m, root);
		if (m.n)
			jm_change(&m);
	}
	if (root)
		text = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	n = text ? strlen(text) : 0;
	if (!n || at + n + (size - end) > max) {
		free(text);
		return LLVMFuzzerMutate(data, size, max);
	}
	memmove(data + at + n, data + end, size - end);
	memcpy(data + at, text, n);
	free(text);
	return at + n + (size - end);
}

#endif
