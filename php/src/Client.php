<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Client.php: read, write and remove one key, whichever server is there.
 *
 * mod_sessiond answers our hello; a plain sharedanced closes the connection in
 * order, and from then on this request speaks S, F and D with it. Only that one
 * sign counts, only before any server has answered, and never on a Unix
 * socket, where sharedanced does not live and where nobody can send a reset.
 * A connection lost under a request is tried again on a new one: a server that
 * restarts between our read and our write resets us, and every request here
 * may be repeated (a W that was executed already is fenced by its version).
 */
final class Client
{
    /** The version of a session that a plain sharedance holds: it knows none. */
    public const ANY = "\xff\xff\xff\xff\xff\xff\xff\xff";

    /* sharedance calls an empty value "none", so an empty session travels
     * there as a null under the empty name: nobody has that in a session, and
     * another client's PHP can decode it (most other bytes make it destroy the
     * session). */
    private const EMPTY_MARK = '|N;';

    private const ATTEMPTS = 3;

    private Dsn $dsn;

    private Extended $extended;

    private Plain $plain;

    private bool $isPlain = false;

    public function __construct(Dsn $dsn)
    {
        $this->dsn = $dsn;
        $this->extended = new Extended($dsn);
        $this->plain = new Plain($dsn);
    }

    public function deadline(): Deadline
    {
        return new Deadline($this->dsn->timeout());
    }

    public function close(): void
    {
        $this->extended->close();
    }

    /** @return array{0: string, 1: string|null} version and data, (Extended::ABSENT, null) when there is none */
    public function read(string $key, Deadline $deadline): array
    {
        [$version, $data] = $this->attempt($deadline, function () use ($key, $deadline): array {
            if (!$this->isPlain) {
                try {
                    return $this->extended->get($key, $deadline);
                } catch (SessiondException $trouble) {
                    $this->fallBackOrThrow($trouble);
                }
            }
            $data = $this->plain->fetch($key, $deadline);
            return [$data === null ? Extended::ABSENT : self::ANY, $data];
        });
        return [$version, $data === self::EMPTY_MARK ? '' : $data];
    }

    /**
     * The new version, or null when the version given is not the session's any
     * more. A plain sharedance has no versions and always takes the write.
     * Comes after a read, which has found out what the server speaks.
     */
    public function write(string $key, string $data, string $version, Deadline $deadline): ?string
    {
        return $this->attempt($deadline, function () use ($key, $data, $version, $deadline): ?string {
            if (!$this->isPlain) {
                return $this->extended->write($key, $data, $version, $deadline);
            }
            $this->plain->store($key, $data === '' ? self::EMPTY_MARK : $data, $deadline);
            return self::ANY;
        });
    }

    /**
     * Removes a session; that there is none is as good. But when one was seen
     * in this request, a mere close is not taken for "there is none": an idle
     * connection that was closed hours ago ends in the same way.
     */
    public function remove(string $key, bool $wasThere, Deadline $deadline): void
    {
        for ($round = 0; $round < 2; $round++) {
            $removed = $this->attempt($deadline, function () use ($key, $deadline): bool {
                return $this->plain->delete($key, $deadline, $this->extended->release());
            });
            if ($removed || !$wasThere || $this->read($key, $deadline)[1] === null) {
                return;
            }
        }
        throw SessiondException::of(
            SessiondException::CLOSED,
            'the server closed the connection without OK, and the session is still there'
        );
    }

    /** @return mixed what the call returns */
    private function attempt(Deadline $deadline, callable $call)
    {
        for ($left = self::ATTEMPTS - 1; ; $left--) {
            try {
                return $call();
            } catch (SessiondException $trouble) {
                $this->close();
                if (!$trouble->isLostConnection() || $left === 0 || $deadline->hasPassed()) {
                    throw $trouble;
                }
            }
        }
    }

    private function fallBackOrThrow(SessiondException $trouble): void
    {
        if (
            $trouble->getCode() !== SessiondException::CLOSED
            || $this->extended->isKnown()
            || $this->extended->hasAnswered()
            || $this->dsn->isUnix()
        ) {
            throw $trouble;
        }
        $this->close();
        $this->isPlain = true;
    }
}
