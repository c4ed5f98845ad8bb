<?php

// SPDX-License-Identifier: Apache-2.0

/*
 * count.php: a page of the tests. It counts in its session, holding it for so
 * many milliseconds, and says who it is; or does one of the other things that
 * pages do. An outage is a 503 with the code of the exception.
 */

ini_set('display_errors', '1');
try {
    session_start();
    $seen = $_SESSION['n'] ?? 0;
    usleep(1000 * (int) ($_GET['hold'] ?? 0));
    switch ($_GET['do'] ?? '') {
        case 'show':
            break;
        case 'renew':
            session_regenerate_id(true);
            break;
        case 'destroy':
            session_destroy();
            break;
        case 'fatal':
            $_SESSION['n'] = -1;
            session_abort();
            nosuchfunction();
        case 'kill':
            $_SESSION['n'] = -1;
            exec('kill -9 ' . getmypid());
            sleep(60);
        default:
            $_SESSION['n'] = $seen + 1;
    }
    $n = $_SESSION['n'] ?? 0;
    $id = session_id();
    session_write_close();
    printf("%s n=%d pid=%d id=%s module=%s\n", PHP_SAPI, $n, getmypid(), $id, session_module_name());
} catch (Sessiond\SessiondException $trouble) {
    http_response_code(503);
    printf("trouble %d\n", $trouble->getCode());
}
