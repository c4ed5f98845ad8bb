/* SPDX-License-Identifier: Apache-2.0
 *
 * import_stop.h: somebody has interrupted us (SIGINT, SIGTERM). Set by the
 * handler in sessiond-import.c; whoever waits or loops looks at it.
 */
#ifndef SD_IMPORT_STOP_H
#define SD_IMPORT_STOP_H

#include <signal.h>

extern volatile sig_atomic_t import_stop;

#endif
