<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Dsn.php: where the session server is, as written in session.save_path.
 *
 *     tcp://host[:port][?timeout=2&lock_wait=30]    tcp://[::1]:1042    unix:///path[?...]
 *
 * Everything is checked here and nothing is guessed: a misspelt option that
 * was quietly ignored would show up as a wrong time-out in the middle of an
 * outage. Each error names the value, the bound and the remedy. PHP's
 * parse_url() is not used, since it accepts far more than this.
 */
final class Dsn
{
    public const DEFAULT_PORT = 1042;
    public const DEFAULT_TIMEOUT = 2.0;
    public const LEAST_TIMEOUT = 0.1;
    public const MOST_TIMEOUT = 300.0;
    public const DEFAULT_LOCK_WAIT = 30.0;
    public const MOST_LOCK_WAIT = 600.0;
    public const MOST_PREFIX = 64;

    /** Seconds: the most that a server takes. */
    public const MOST_TTL = 2592000;

    /* sockaddr_un holds 108 bytes, the last of them a NUL. */
    private const MOST_PATH = 107;

    private const OPTIONS = 'timeout, lock_wait, lock, persistent, ttl, prefix and on_error';

    private const EXAMPLES = 'tcp://host:1042?timeout=2, tcp://[::1]:1042 or unix:///path/of/the/socket';

    private string $text;

    private string $address = '';

    private bool $unix = false;

    private float $timeout = self::DEFAULT_TIMEOUT;

    private string $prefix = '';

    private float $lockWait = self::DEFAULT_LOCK_WAIT;

    private bool $locks = true;

    private bool $persistent = false;

    private ?int $ttl = null;

    private ?string $onError = null;

    /** Is this one of our DSNs rather than a folder for PHP's own handler? */
    public static function looksLike(string $savePath): bool
    {
        return \preg_match('~^(?:tcp|unix)://~', $savePath) === 1;
    }

    /** @throws SessiondException (SETUP) naming what is wrong with it */
    public function __construct(string $text)
    {
        $this->text = $text;
        if (\preg_match('~^(tcp|unix)://([^?]*)(?:\?(.*))?$~sD', $text, $part) !== 1) {
            throw $this->wrong($text === '' ? 'it is empty' : 'it does not begin with tcp:// or unix://', 'write ' . self::EXAMPLES);
        }
        if ($part[1] === 'unix') {
            $this->unix = true;
            $this->address = 'unix://' . $this->path($part[2]);
        } else {
            $this->address = 'tcp://' . $this->hostAndPort($part[2]);
        }
        $this->options($part[3] ?? '');
    }

    /** The address as stream_socket_client() wants it; also for messages. */
    public function address(): string
    {
        return $this->address;
    }

    public function isUnix(): bool
    {
        return $this->unix;
    }

    /** Seconds for one whole operation. */
    public function timeout(): float
    {
        return $this->timeout;
    }

    public function prefix(): string
    {
        return $this->prefix;
    }

    /** Seconds to wait for another request of the same session. */
    public function lockWait(): float
    {
        return $this->lockWait;
    }

    public function wantsLocks(): bool
    {
        return $this->locks;
    }

    public function isPersistent(): bool
    {
        return $this->persistent;
    }

    /**
     * The lifetime that a write asks for, 0 for the server's own. Without an
     * option it is what PHP says at that moment, since a page may change it.
     */
    public function ttl(): int
    {
        return $this->ttl ?? \max(0, \min(self::MOST_TTL, self::quantity(\ini_get('session.gc_maxlifetime'))));
    }

    /** A setting as PHP reads it: "2K" is 2048. PHP itself has a function for it from 8.2 on. */
    private static function quantity(string $setting): int
    {
        if (\function_exists('ini_parse_quantity')) {
            return \ini_parse_quantity($setting);
        }
        $factor = ['k' => 1 << 10, 'm' => 1 << 20, 'g' => 1 << 30][\strtolower(\substr(\trim($setting), -1))] ?? 1;
        return (int) $setting * $factor;
    }

    /** Must a read that fails throw? */
    public function readsThrow(): bool
    {
        return $this->onError !== 'warn';
    }

    /** Must a write or a removal that fails throw? */
    public function writesThrow(): bool
    {
        return $this->onError === 'throw';
    }

    private function path(string $encoded): string
    {
        $path = \rawurldecode($encoded);
        if ($path === '' || $path[0] !== '/') {
            throw $this->wrong(
                \sprintf('the socket\'s path "%s" is not absolute', $this->shown($path)),
                'write three slashes: unix:///path/of/the/socket'
            );
        }
        if (\strpos($path, "\0") !== false) {
            throw $this->wrong('the socket\'s path holds a NUL byte', 'remove the %00');
        }
        if (\strlen($path) > self::MOST_PATH) {
            throw $this->wrong(
                \sprintf('the socket\'s path has %d bytes', \strlen($path)),
                \sprintf('a Unix socket\'s path has at most %d', self::MOST_PATH)
            );
        }
        return $path;
    }

    private function hostAndPort(string $text): string
    {
        if (\substr($text, -1) === '/') {
            $text = \substr($text, 0, -1);
        }
        if (\strpos($text, '@') !== false) {
            throw $this->wrong('it holds a user name', 'the protocol has none; write only host and port');
        }
        if (\preg_match('~^(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?$~sD', $text, $part) !== 1) {
            throw $this->wrong(
                \sprintf('"%s" is not a host with an optional port', $this->shown($text)),
                'put an IPv6 address in brackets: tcp://[::1]:1042'
            );
        }
        return $this->host($part[1]) . ':' . $this->port($part[2] ?? (string) self::DEFAULT_PORT);
    }

    private function host(string $host): string
    {
        if ($host !== '' && $host[0] === '[') {
            /* A link-local address may name its interface: [fe80::1%eth0]. */
            $bare = \preg_replace('~%[A-Za-z0-9_.-]+$~D', '', \substr($host, 1, -1));
            if (\filter_var($bare, \FILTER_VALIDATE_IP, \FILTER_FLAG_IPV6) === false) {
                throw $this->wrong(
                    \sprintf('"%s" is not an IPv6 address', $this->shown($host)),
                    'only an IPv6 address stands in brackets, such as [::1]'
                );
            }
            return $host;
        }
        if (\preg_match('~^[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})$~D', $host) !== 1) {
            throw $this->wrong(
                \sprintf('"%s" is not a host', $this->shown($host)),
                'write a host name of letters, digits, "-" and ".", or an address, and no path'
            );
        }
        return $host;
    }

    private function port(string $port): int
    {
        if (\preg_match('~^[0-9]{1,5}$~D', $port) !== 1 || (int) $port < 1 || (int) $port > 65535) {
            throw $this->wrong(
                \sprintf('the port "%s" is not a number from 1 to 65535', $this->shown($port)),
                \sprintf('write the port of SessiondListen, or none for %d', self::DEFAULT_PORT)
            );
        }
        return (int) $port;
    }

    private function options(string $query): void
    {
        $seen = [];
        foreach ($query === '' ? [] : \explode('&', $query) as $option) {
            if (\strpos($option, '=') === false) {
                throw $this->wrong(
                    \sprintf('the option "%s" has no value', $this->shown($option)),
                    'write name=value, several joined by "&"'
                );
            }
            [$name, $value] = \explode('=', $option, 2);
            if (isset($seen[$name])) {
                throw $this->wrong(\sprintf('the option "%s" is given twice', $this->shown($name)), 'keep one of them');
            }
            $seen[$name] = true;
            $value = \rawurldecode($value);
            switch ($name) {
                case 'timeout':
                    $this->timeout = $this->seconds($name, $value, self::LEAST_TIMEOUT, self::MOST_TIMEOUT);
                    break;
                case 'lock_wait':
                    $this->lockWait = $this->seconds($name, $value, 0.0, self::MOST_LOCK_WAIT);
                    break;
                case 'lock':
                    $this->locks = $this->isOn($name, $value);
                    break;
                case 'persistent':
                    $this->persistent = $this->isOn($name, $value);
                    break;
                case 'ttl':
                    $this->ttl = $this->lifetime($value);
                    break;
                case 'prefix':
                    $this->prefix = $this->keyPrefix($value);
                    break;
                case 'on_error':
                    $this->onError = $this->reaction($value);
                    break;
                default:
                    throw $this->wrong(
                        \sprintf('the option "%s" is unknown', $this->shown($name)),
                        'the options are ' . self::OPTIONS
                    );
            }
        }
    }

    private function seconds(string $name, string $value, float $least, float $most): float
    {
        $seconds = \preg_match('~^[0-9]{1,6}(?:\.[0-9]{1,6})?$~D', $value) === 1 ? (float) $value : -1.0;
        if ($seconds < $least || $seconds > $most) {
            throw $this->wrong(
                \sprintf('%s=%s is not between %s and %s', $name, $this->shown($value), $least, $most),
                \sprintf('write seconds such as %1$s=2 or %1$s=0.5', $name)
            );
        }
        return $seconds;
    }

    private function isOn(string $name, string $value): bool
    {
        if (!\in_array($value, ['on', 'off', '1', '0'], true)) {
            throw $this->wrong(
                \sprintf('%s=%s is neither on nor off', $name, $this->shown($value)),
                \sprintf('write %1$s=on or %1$s=off', $name)
            );
        }
        return $value === 'on' || $value === '1';
    }

    private function lifetime(string $value): int
    {
        if (\preg_match('~^[0-9]{1,9}$~D', $value) !== 1 || (int) $value > self::MOST_TTL) {
            throw $this->wrong(
                \sprintf('ttl=%s is not between 0 and %d seconds', $this->shown($value), self::MOST_TTL),
                'write whole seconds, 0 for the server\'s SessiondExpiration, or no ttl for session.gc_maxlifetime'
            );
        }
        return (int) $value;
    }

    private function reaction(string $value): string
    {
        if ($value !== 'throw' && $value !== 'warn') {
            throw $this->wrong(
                \sprintf('on_error=%s is neither throw nor warn', $this->shown($value)),
                'write one of them, or no on_error: then reads throw and writes warn'
            );
        }
        return $value;
    }

    private function keyPrefix(string $value): string
    {
        if (!Key::isPlain($value)) {
            throw $this->wrong(
                \sprintf('prefix=%s holds a byte that a key may not have', $this->shown($value)),
                'use printable ASCII without space, "." and "/"'
            );
        }
        if (\strlen($value) > self::MOST_PREFIX) {
            throw $this->wrong(
                \sprintf('the prefix has %d bytes', \strlen($value)),
                \sprintf('it may have at most %d', self::MOST_PREFIX)
            );
        }
        return $value;
    }

    private function wrong(string $what, string $remedy): SessiondException
    {
        return SessiondException::of(
            SessiondException::SETUP,
            \sprintf('session.save_path "%s": %s; %s', $this->shown($this->withoutSecrets()), $what, $remedy)
        );
    }

    /** Whatever somebody wrote before an "@" may be a password. */
    private function withoutSecrets(): string
    {
        return \preg_replace('~//[^?]*@~', '//...@', $this->text);
    }

    /** A value fit for one line of a log, whatever it holds. */
    private function shown(string $value): string
    {
        $value = \addcslashes($value, "\0..\37\177..\377\\\"");
        return \strlen($value) > 200 ? \substr($value, 0, 200) . '...' : $value;
    }
}
