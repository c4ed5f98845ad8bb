<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

/*
 * arrive.php: on the domain where the user is to be logged in as well
 * (blog.test). Without a ticket it sends the browser for one, with a "state"
 * that it remembers: so nobody can be logged in here by a link that somebody
 * else has had made for himself.
 */

require __DIR__ . '/HandOver.php';

session_start(['use_strict_mode' => 1]);
header('Referrer-Policy: no-referrer');
header('Cache-Control: no-store');
if (isset($_SESSION['user'])) {
    exit('hello ' . htmlspecialchars($_SESSION['user']) . "\n");
}
$ticket = $_GET['ticket'] ?? null;
if (!is_string($ticket)) {
    $_SESSION['state'] = bin2hex(random_bytes(16));
    $here = getenv('EXAMPLE_HERE');
    header('Location: ' . getenv('EXAMPLE_SHOP') . '?to=' . rawurlencode((string) $here) . "&state=$_SESSION[state]", true, 303);
    exit;
}
$state = (string) ($_SESSION['state'] ?? '');
unset($_SESSION['state']);
$user = (new HandOver(session_save_path()))->redeem($ticket, (string) parse_url((string) getenv('EXAMPLE_HERE'), PHP_URL_HOST), $state);
if ($user === null) {
    http_response_code(403);
    exit("this ticket is used, too old, or not yours\n");
}
session_regenerate_id(true);
$_SESSION['user'] = $user;
header('Location: ' . getenv('EXAMPLE_HERE'), true, 303);
