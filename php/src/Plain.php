<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Plain.php: sharedance's three requests, one connection each.
 *
 *     'S' keylen datalen key data -> "OK\n"    'F' keylen key -> the data    'D' keylen key -> "OK\n"
 *
 * The server says "no" by an orderly close without a byte, which is also what
 * a tunnel or a proxy does that has lost the server behind it. So the first
 * "there is no such session" of a request is believed only when the same
 * address has shown in this request that a server lives there: by data, or by
 * its OK to a tiny store under a key that no session id can have.
 */
final class Plain
{
    private const ACKNOWLEDGED = "OK\n";

    /* The space: allowed in sharedance's keys, refused in session ids (Key). */
    private const PROBE_KEY = 'sessiond probe';

    private Dsn $dsn;

    private bool $alive = false;

    public function __construct(Dsn $dsn)
    {
        $this->dsn = $dsn;
    }

    public function fetch(string $key, Deadline $deadline): ?string
    {
        $connection = Connection::open($this->dsn, $deadline);
        $connection->send('F' . \pack('N', \strlen($key)) . $key, $deadline);
        $data = $connection->receiveToEnd($deadline);
        $connection->close();
        if ($data !== '') {
            $this->alive = true;
            return $data;
        }
        if (!$this->alive) {
            $this->store(self::PROBE_KEY, '1', $deadline);
        }
        return null;
    }

    public function store(string $key, string $data, Deadline $deadline): void
    {
        $frame = 'S' . \pack('NN', \strlen($key), \strlen($data)) . $key . $data;
        $connection = Connection::open($this->dsn, $deadline);
        $connection->send($frame, $deadline);
        if (!$this->acknowledgement($connection, $deadline)) {
            throw SessiondException::of(
                SessiondException::REFUSED,
                'the server closed the connection without OK (a value over its size limit, or nothing but a tunnel there)'
            );
        }
        $this->alive = true;
    }

    /**
     * True when the server removed it, false when it says that there is none.
     *
     * @param Connection|null $connection one that is open already
     */
    public function delete(string $key, Deadline $deadline, ?Connection $connection = null): bool
    {
        $connection = $connection ?? Connection::open($this->dsn, $deadline);
        $connection->send('D' . \pack('N', \strlen($key)) . $key, $deadline);
        return $this->acknowledgement($connection, $deadline);
    }

    /** OK, or an orderly end without a byte; anything else is trouble. */
    private function acknowledgement(Connection $connection, Deadline $deadline): bool
    {
        $answer = $connection->receiveUpTo(\strlen(self::ACKNOWLEDGED), $deadline);
        $connection->close();
        if ($answer !== '' && $answer !== self::ACKNOWLEDGED) {
            throw SessiondException::of(
                SessiondException::MALFORMED,
                \sprintf('"%s" is not sharedance\'s OK', \addcslashes($answer, "\0..\37\177..\377"))
            );
        }
        return $answer !== '';
    }
}
