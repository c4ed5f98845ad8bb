<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

/*
 * leave.php: on the domain where the user is logged in (shop.example). The
 * other one sends the browser here with a "state" of its own; it goes back with
 * a ticket. (?login=NAME stands for a real log-in here.)
 */

require __DIR__ . '/HandOver.php';

// Only places that are ours: an open redirect would hand users to anybody.
$places = array_filter(explode(' ', (string) getenv('EXAMPLE_PLACES')));

session_start(['use_strict_mode' => 1]);
if (is_string($_GET['login'] ?? null)) {
    session_regenerate_id(true);
    $_SESSION['user'] = $_GET['login'];
    exit("logged in\n");
}
$to = $_GET['to'] ?? '';
$state = $_GET['state'] ?? '';
if (!in_array($to, $places, true) || !is_string($state) || preg_match('~^[0-9a-f]{32}$~D', $state) !== 1) {
    http_response_code(400);
    exit("no such place\n");
}
if (!isset($_SESSION['user'])) {
    http_response_code(403);
    exit("not logged in here\n");
}
$host = (string) parse_url($to, PHP_URL_HOST);
$ticket = (new HandOver(session_save_path()))->issue($_SESSION['user'], $host, $state);
header('Referrer-Policy: no-referrer');
header('Cache-Control: no-store');
header("Location: $to?ticket=$ticket", true, 303);
