/* SPDX-License-Identifier: Apache-2.0
 *
 * forks.h: forks of the httpd parent. Only a session process keeps our sockets;
 * web children, and the daemons of other modules, let go of them as they begin.
 */
#ifndef SD_FORKS_H
#define SD_FORKS_H

#include <apr_pools.h>

#include "retained.h"

/* From now on forks let go of what is ours ... */
void sd_forks_let_go(sd_retained_t *r);
/* ... except between these two calls. */
void sd_forks_are_ours(bool yes);
/* This process lets go, if it has not yet. */
void sd_forks_let_go_here(void);

/* Has the parent notice a death at once, as long as `pconf` lives. */
void sd_forks_wake_for_deaths(apr_pool_t *pconf);

#endif
