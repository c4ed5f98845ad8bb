<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

use Sessiond\SessiondHandler;

/**
 * HandOver.php: who a user is, taken from one domain to another, once.
 *
 * No browser sends one domain's cookie to another domain, so the session
 * itself cannot be shared. What can travel is a ticket: a random id in a link,
 * under which the session server keeps for some seconds who it is for, where
 * it is to be used and who asked for it. It is an ordinary short session under
 * a prefix of its own. The ">" in that is in no session id that PHP takes from a
 * browser; else who has a ticket could send it as a cookie.
 *
 * It works once: redeeming takes its lock, reads it and removes it, and
 * whoever comes second gets the lock only when there is nothing left. A plain
 * sharedance server has no locks, so do not keep tickets there.
 */
final class HandOver
{
    private const SECONDS = 30;

    private SessiondHandler $tickets;

    public function __construct(string $dsn)
    {
        // the same server, but options of its own: without the lock a ticket would work twice
        [$address, $options] = explode('?', $dsn, 2) + [1 => ''];
        $options = preg_grep('~^(?:(?:prefix|ttl|on_error|lock)=|$)~', explode('&', $options), PREG_GREP_INVERT);
        array_push($options, 'prefix=ticket>', 'ttl=' . self::SECONDS, 'on_error=throw', 'lock=on');
        $this->tickets = new SessiondHandler($address . '?' . implode('&', $options));
    }

    /**
     * @param string $user whatever identifies the user on the other side; no password
     * @param string $host the only host that may redeem it
     * @param string $state what that host's browser session has sent along
     */
    public function issue(string $user, string $host, string $state): string
    {
        $ticket = bin2hex(random_bytes(20));
        $this->tickets->open('', '');
        try {
            $this->tickets->read($ticket);
            $this->tickets->write($ticket, json_encode([$user, $host, $state], JSON_THROW_ON_ERROR));
        } finally {
            $this->tickets->close();
        }
        return $ticket;
    }

    /** The user, or null when the ticket is unknown, used, too old or not meant for this. */
    public function redeem(string $ticket, string $host, string $state): ?string
    {
        if (preg_match('~^[0-9a-f]{40}$~D', $ticket) !== 1 || $state === '') {
            return null;
        }
        $this->tickets->open('', '');
        try {
            $data = $this->tickets->read($ticket);
            $this->tickets->destroy($ticket);
        } finally {
            $this->tickets->close();
        }
        $content = $data === '' ? null : json_decode($data, true);
        if (!is_array($content) || count($content) !== 3) {
            return null;
        }
        [$user, $for, $asked] = $content;
        return hash_equals($for, $host) && hash_equals($asked, $state) ? $user : null;
    }
}
