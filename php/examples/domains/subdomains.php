<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

/*
 * subdomains.php: one session for www.example.org and shop.example.org.
 *
 * Nothing of this is the session server's business: the browser sends a cookie
 * to the hosts that it was set for, and cookie_domain widens that to all hosts
 * below a domain. All of them need the same session server, save_path prefix
 * and serialize_handler. Every host below the domain gets the cookie then, so
 * all of them must be yours; a public suffix such as "co.uk" is refused by the
 * browser.
 *
 * Usually these settings stand in php.ini. The name differs from the default,
 * since a cookie of one host alone and one of the whole domain are two cookies,
 * and with the same name a browser sends both.
 */

session_start([
    'name' => 'FARMSESSION',
    'cookie_domain' => getenv('EXAMPLE_DOMAIN') ?: 'example.org',
    'cookie_secure' => getenv('EXAMPLE_INSECURE') === false,
    'cookie_httponly' => true,
    'cookie_samesite' => 'Lax',
    'use_strict_mode' => true,
]);
$_SESSION['visits'] = ($_SESSION['visits'] ?? 0) + 1;
$_SESSION['hosts'][$_SERVER['HTTP_HOST'] ?? '?'] = true;

header('Content-Type: text/plain; charset=utf-8');
echo 'visits: ', $_SESSION['visits'], "\n";
echo 'hosts: ', implode(' ', array_keys($_SESSION['hosts'])), "\n";
