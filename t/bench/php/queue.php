<?php

// SPDX-License-Identifier: Apache-2.0

/*
 * queue.php: one of many requests of one user that overlap: takes the session, holds
 * it for some milliseconds, counts, and commits. Says when it had the session and
 * when it let go, by a clock that all processes share.
 *
 *   php -d session.... queue.php START-NS HOLD-MS [HANDLER-FILE]
 */

declare(strict_types=1);

[, $start, $hold] = $argv;
if (isset($argv[3]) && $argv[3] !== '') {
    require $argv[3];
}
ob_start();
/* as a worker that has served before: classes are loaded, connections are open */
session_id(md5('another session ' . getmypid()));
@session_start() && @session_write_close();
while (hrtime(true) < (int) $start) {
    usleep(200);
}
$outcome = 'failed';
$had = $let = $n = 0;
try {
    session_id(md5('the one session of all'));
    if (@session_start()) {
        $had = hrtime(true);
        $n = $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
        usleep((int) $hold * 1000);
        $let = hrtime(true);
        $outcome = @session_write_close() ? 'ok' : 'not written';
    }
} catch (Throwable $trouble) {
    $outcome = 'failed';
}
ob_end_clean();
printf("%s %d %d %d\n", $outcome, $had, $let, $n);
