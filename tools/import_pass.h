/* SPDX-License-Identifier: Apache-2.0
 *
 * import_pass.h: once over all files: each is dated, read and handed to the
 * client, and what became of it goes to the report.
 */
#ifndef SD_IMPORT_PASS_H
#define SD_IMPORT_PASS_H

#include "tools/import_client.h"
#include "tools/import_options.h"
#include "tools/import_report.h"

typedef struct import_pass import_pass_t;

/* All three outlive it. NULL without memory. */
import_pass_t *import_pass_create(const import_options_t *options, import_report_t *report);
void import_pass_destroy(import_pass_t **pass);

/* The client is the pass's. */
import_client_t *import_pass_client(import_pass_t *pass);

/* 0, or the errno of the directory. That the client is in trouble, or that we
 * were interrupted, has to be asked for. */
int import_pass_run(import_pass_t *pass);

#endif
