<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * SessiondException.php: the one exception of this package.
 *
 * "No" and "no answer" differ: a session that is not there is never an
 * exception, anything that leaves us without an answer always is. The code
 * says what kind of trouble it was, so that a page can tell a mistake in its
 * configuration (SETUP, NOT_ALLOWED) from an outage, and so that the client
 * can tell what may be tried again on a new connection (RESET, CLOSED).
 */
final class SessiondException extends \RuntimeException
{
    /** The DSN or a setting of PHP's is wrong; no server was asked. */
    public const SETUP = 1;

    /** The session id holds bytes, or is of a length, that no server accepts. */
    public const NOT_ALLOWED = 2;

    /** No connection: refused, unreachable, unknown host, no such socket. */
    public const UNREACHABLE = 3;

    /** The deadline of the whole operation has passed. */
    public const TIMEOUT = 4;

    /** The connection was reset. */
    public const RESET = 5;

    /** The connection was closed in order where an answer was due. */
    public const CLOSED = 6;

    /** Bytes that are not an answer to what was asked. */
    public const MALFORMED = 7;

    /** The server answered that it will not do this, and why. */
    public const REFUSED = 8;

    /** The session was removed by another request while this one ran. */
    public const REMOVED = 9;

    /** Another request of the same session held its lock for all of lock_wait. */
    public const LOCKED = 10;

    /** The lock was lost (a lease that ended, a new connection), and another request has taken over. */
    public const FENCED = 11;

    public static function of(int $kind, string $message): self
    {
        return new self($message, $kind);
    }

    /** Did the connection end under us, with the server perhaps well? */
    public function isLostConnection(): bool
    {
        return $this->code === self::RESET || $this->code === self::CLOSED;
    }
}
