<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace Sessiond;

/**
 * Key.php: which session ids may travel, and how an id is shown.
 *
 * An id comes from a cookie and may be anything, so it is checked before it is
 * put on the wire. The rule is the narrowest of all the frames in use: what
 * S, F and D accept less the space, at the length that G and W accept; an id
 * that could be written but never deleted would be worse than a refused one.
 * PHP's own ids ([A-Za-z0-9,-]) always pass. Ids are secrets: messages carry
 * only their first characters.
 */
final class Key
{
    public const MOST_BYTES = 250;

    private const SHOWN = 4;

    /** Says why an id is not allowed, or null when it is. */
    public static function refusal(string $prefix, string $id): ?string
    {
        if ($id === '') {
            return 'the session id is empty';
        }
        if (!self::isPlain($id)) {
            return 'the session id holds a byte that is not allowed (allowed: printable ASCII without space, "." and "/")';
        }
        $length = \strlen($prefix) + \strlen($id);
        if ($length > self::MOST_BYTES) {
            return \sprintf(
                'the session id is too long: %d bytes with the prefix, at most %d are allowed; see session.sid_length and prefix=',
                $length,
                self::MOST_BYTES
            );
        }
        return null;
    }

    /** Does the text hold nothing but bytes that every server allows in a key? */
    public static function isPlain(string $text): bool
    {
        return \preg_match('~^[!-\-0-\~]*$~D', $text) === 1;
    }

    /** An id fit for a log or a page: enough to compare two lines, too little to use. */
    public static function mask(string $id): string
    {
        if (\strlen($id) < 3 * self::SHOWN) {
            return '...';
        }
        return \preg_replace('~[^!-\~]~', '?', \substr($id, 0, self::SHOWN)) . '...';
    }
}
