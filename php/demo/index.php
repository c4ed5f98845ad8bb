<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

/*
 * index.php: the demo's page. It counts visits in the session, so that one
 * sees the same session whichever web server answers.
 *
 * The page itself knows nothing of session servers; prepend.php does that. Its
 * only care: everything that can fail (start, change, write) happens before
 * the first byte leaves, so that an outage is a 503 with a sentence. From the
 * environment (of the process, or SetEnv): SESSIOND_DEMO_NAME, the name of
 * this server; SESSIOND_DEMO_OTHER and SESSIOND_DEMO_STATUS, addresses to link
 * to. With ?plain=1 it answers in lines for curl; ?do=logout|renew by POST.
 */

function setting(string $name): string
{
    $value = $_SERVER[$name] ?? getenv($name);
    return is_string($value) ? trim($value) : '';
}

function html(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE, 'UTF-8');
}

/** An address to link to, or '' when it isn't one: no "javascript:" gets into a href. */
function address(string $name): string
{
    $value = setting($name);
    return preg_match('~^https?://[^\s]~i', $value) === 1 ? $value : '';
}

function serverName(): string
{
    $name = setting('SESSIOND_DEMO_NAME');
    return $name !== '' ? $name : ($_SERVER['SERVER_NAME'] ?? '?') . ':' . ($_SERVER['SERVER_PORT'] ?? '?');
}

/** Enough of the id to see that it is the same one, too little to use. */
function masked(string $id): string
{
    return $id === '' ? 'none' : substr($id, 0, 4) . str_repeat('*', max(0, strlen($id) - 4));
}

/** The value of a parameter if it is a plain string, as a hostile one need not be. */
function parameter(array $from, string $name): string
{
    return isset($from[$name]) && is_string($from[$name]) ? $from[$name] : '';
}

/**
 * All the session work of one visit; afterwards the session is stored.
 *
 * @return array{visits: int, id: string, since: string, note: string}
 */
function visit(string $action): array
{
    if (ini_get('session.save_handler') !== 'user') {
        throw new RuntimeException(
            'The session handler is not registered: set auto_prepend_file to prepend.php'
            . ' and session.save_path to a DSN such as tcp://127.0.0.1:1042.'
        );
    }
    // strict: an id that we did not give out is replaced, whatever a cookie says
    if (!session_start(['use_strict_mode' => 1])) {
        throw new RuntimeException('PHP could not start the session; its error log says why.');
    }
    $note = '';
    if ($action === 'logout') {
        $_SESSION = [];
        if (!session_destroy()) {
            throw new RuntimeException('The session could not be removed; you are not logged out.');
        }
        return ['visits' => 0, 'id' => '', 'since' => '', 'note' => 'Logged out: the session is removed from the server.'];
    }
    if ($action === 'renew') {
        if (!session_regenerate_id(true)) {
            throw new RuntimeException('The session could not move to a new id.');
        }
        $note = 'The session has a new id; its data moved along.';
    }
    $_SESSION['visits'] = (int) ($_SESSION['visits'] ?? 0) + 1;
    $_SESSION['since'] = $_SESSION['since'] ?? gmdate('Y-m-d H:i:s') . ' UTC';
    $seen = ['visits' => $_SESSION['visits'], 'id' => (string) session_id(), 'since' => $_SESSION['since'], 'note' => $note];
    storeSession();
    return $seen;
}

/** PHP's session_write_close() returns true even when the handler's write failed; only warnings tell. */
function storeSession(): void
{
    $warnings = [];
    set_error_handler(static function (int $level, string $message) use (&$warnings): bool {
        $warnings[] = $message;
        return true;
    });
    session_write_close();
    restore_error_handler();
    if ($warnings !== []) {
        error_log('demo: ' . implode('; ', $warnings));
        throw new RuntimeException('The session server did not take this visit; it is not counted.');
    }
}

function answerPlain(array $lines): void
{
    header('Content-Type: text/plain; charset=utf-8');
    foreach ($lines as $name => $value) {
        echo $name, ': ', str_replace(["\r", "\n"], ' ', (string) $value), "\n";
    }
}

function answerHtml(string $title, string $body): void
{
    header('Content-Type: text/html; charset=utf-8');
    header("Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; form-action 'self'");
    $links = '';
    foreach (['SESSIOND_DEMO_OTHER' => 'the other web server', 'SESSIOND_DEMO_STATUS' => 'status page'] as $name => $text) {
        if (address($name) !== '') {
            $links .= sprintf('<a href="%s">%s</a> ', html(address($name)), $text);
        }
    }
    $links = $links === '' ? '' : "<nav>$links</nav>";
    $title = html($title);
    $server = html(serverName());
    echo <<<PAGE
        <!DOCTYPE html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>$title</title>
        <style>
        body { font: 1.05em/1.5 system-ui, sans-serif; max-width: 34em; margin: 3em auto; padding: 0 1em; color: #222; background: #fafafa }
        main { background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: 1em 1.5em }
        h1 { font-size: 1.3em; margin: .3em 0 }
        .count { font-size: 3em; line-height: 1.2 }
        dt { color: #666; float: left; clear: left; width: 8em }
        dd { margin-left: 8.5em; font-family: monospace; overflow-wrap: anywhere }
        form { display: inline }
        button, nav a { font: inherit; margin: .4em .6em .4em 0 }
        .trouble { border-color: #b00 }
        </style>
        </head>
        <body>
        $body
        $links
        <p><small>Answered by web server <b>$server</b>.</small></p>
        </body>
        </html>

        PAGE;
}

function showVisit(array $seen): void
{
    $note = $seen['note'] === '' ? '' : '<p>' . html($seen['note']) . '</p>';
    $facts = '';
    if ($seen['id'] !== '') {
        $facts = sprintf(
            '<dl><dt>session id</dt><dd>%s</dd><dt>first visit</dt><dd>%s</dd></dl>',
            html(masked($seen['id'])),
            html($seen['since'])
        );
    }
    $buttons = '<form method="get"><button>Visit again</button></form>';
    foreach (['renew' => 'New id', 'logout' => 'Log out'] as $action => $text) {
        $buttons .= sprintf('<form method="post"><button name="do" value="%s">%s</button></form>', $action, $text);
    }
    answerHtml(
        'mod_sessiond: visits',
        sprintf('<main><h1>Visits in this session</h1><div class="count">%d</div>%s%s%s</main>', $seen['visits'], $note, $facts, $buttons)
    );
}

ini_set('display_errors', '0');    // warnings belong into the log, not in front of the headers
header('Cache-Control: no-store');
$plain = parameter($_GET, 'plain') === '1';
$action = $_SERVER['REQUEST_METHOD'] === 'POST' ? (parameter($_POST, 'do') ?: parameter($_GET, 'do')) : '';
try {
    $seen = visit($action);
    if ($plain) {
        answerPlain(['visits' => $seen['visits'], 'server' => serverName(), 'session' => masked($seen['id'])]);
    } else {
        showVisit($seen);
    }
} catch (RuntimeException $trouble) {
    error_log('demo: ' . $trouble->getMessage());
    http_response_code(503);
    header('Retry-After: 5');
    $sentence = 'The session server does not answer, so this page cannot know your session. Nothing of it was changed; please try again.';
    if (!$trouble instanceof Sessiond\SessiondException) {
        $sentence = $trouble->getMessage();
    } elseif ($trouble->getCode() === Sessiond\SessiondException::LOCKED) {
        $sentence = 'Another page of yours is still at work with this session; please try again when it is done.';
    }
    if ($plain) {
        answerPlain(['error' => $sentence, 'server' => serverName()]);
    } else {
        answerHtml('mod_sessiond: no answer', '<main class="trouble"><h1>Session server not available</h1><p>' . html($sentence) . '</p></main>');
    }
}
