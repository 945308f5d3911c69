/* A look at an entry's extension headers before libarchive has them; see import_peek.c. */
#ifndef WSLX_IMAGE_IMPORT_PEEK_H
#define WSLX_IMAGE_IMPORT_PEEK_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/macros.h"

#define WSLX_IMPORT_ACL_MAX 256u /* entries of an ACL: more do not fit a block */
/* What libarchive may have to put in a list.  More than an ACL may have, so that
 * most messages can name the entry. */
#define WSLX_PEEK_ACL_MAX (4 * WSLX_IMPORT_ACL_MAX)

/* The third is NFSv4's, which Linux has no place for. */
enum wslx_peek_acl { PEEK_ACL_ACCESS, PEEK_ACL_DEFAULT, PEEK_ACL_OTHER, PEEK_ACLS };

enum wslx_peek_state { PEEK_DONE, PEEK_HEADER, PEEK_BODY, PEEK_SKIP };

/* All zero to begin with. */
struct wslx_peek {
	enum wslx_peek_state state;
	uint64_t fed; /* bytes that libarchive was given */
	const uint8_t *block;
	size_t block_len;   /* the last of them */
	uint8_t tail[4096]; /* and what came before the block */
	size_t tail_len;
	uint8_t header[512];
	size_t have;   /* of the header */
	char type;     /* of the last header */
	uint64_t left; /* of a body, or of what is skipped */
	char *body;    /* owned */
	size_t body_len;
	size_t entries[PEEK_ACLS]; /* of the archive's entry, in its ACLs' texts */
};

/* An entry begins at this byte.  -E2BIG, -EBADMSG: it is not to be read. */
WSLX_MUST_CHECK int wslx_peek_begin(struct wslx_peek *p, uint64_t at, struct wslx_err *err);
/* Before the last block is given back. */
void wslx_peek_keep(struct wslx_peek *p);
/* Before libarchive has it. */
WSLX_MUST_CHECK int wslx_peek_block(struct wslx_peek *p, const void *block, size_t n, struct wslx_err *err);
void wslx_peek_free(struct wslx_peek *p);

#endif
