<?php

// SPDX-License-Identifier: Apache-2.0

/*
 * prepend.php: for auto_prepend_file. It makes our handler PHP's session
 * handler when session.save_path is a DSN, so that no page needs a change. What
 * was meant as one ("unix:/path", "TCP://host") is taken, too, so that it is
 * refused with a sentence: PHP would take it for a folder, and every page would
 * get a blank session.
 *
 * It runs before every page, so it must never get in the way: with another
 * save handler configured (a "tcp://" save path is also how other extensions
 * name their servers), with a session already begun, without the session
 * extension, or when included a second time, it does nothing.
 */

require_once __DIR__ . '/autoload.php';

if (
    function_exists('session_status')
    && session_status() === PHP_SESSION_NONE
    && ini_get('session.save_handler') === 'files'
    && preg_match('~^(?:tcp|unix):~i', (string) ini_get('session.save_path')) === 1
) {
    Sessiond\SessiondHandler::register();
}
