<?php

// SPDX-License-Identifier: Apache-2.0

/*
 * cycle.php: one PHP process goes through sessions: start, change, commit, again
 * and again, and says how many microseconds one took. What the handler is comes from
 * the ini settings that it is started with; ours and sharedance's are PHP files.
 *
 *   php -d session.... cycle.php SECONDS BYTES [HANDLER-FILE]
 */

declare(strict_types=1);

[, $seconds, $bytes] = $argv;
if (isset($argv[3]) && $argv[3] !== '') {
    require $argv[3];
}
ob_start();
$ids = [];
for ($i = 0; $i < 50; $i++) {
    $ids[] = md5("session $i");
}
$filler = str_repeat('x', max(0, (int) $bytes - 40));

function cycle(string $id, string $filler): void
{
    session_id($id);
    if (!session_start()) {
        throw new Exception('session_start');
    }
    $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
    $_SESSION['filler'] = $filler;
    if (!session_write_close()) {
        throw new Exception('session_write_close');
    }
    $_SESSION = [];
}

$run = function (float $seconds) use ($ids, $filler): array {
    $begin = hrtime(true);
    $end = $begin + (int) ($seconds * 1e9);
    $n = 0;
    do {
        cycle($ids[$n++ % count($ids)], $filler);
    } while (($now = hrtime(true)) < $end);
    return [$n, ($now - $begin) / 1000];
};
$run(0.2);
$before = getrusage();
[$n, $us] = $run((float) $seconds);
$after = getrusage();
$cpu = ($after['ru_utime.tv_sec'] - $before['ru_utime.tv_sec'] + $after['ru_stime.tv_sec'] - $before['ru_stime.tv_sec']) * 1e6
    + $after['ru_utime.tv_usec'] - $before['ru_utime.tv_usec'] + $after['ru_stime.tv_usec'] - $before['ru_stime.tv_usec'];
ob_end_clean();
printf("us=%.2f cpu=%.2f n=%d\n", $us / $n, $cpu / $n, $n);
