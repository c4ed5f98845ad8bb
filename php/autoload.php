<?php

// SPDX-License-Identifier: Apache-2.0

/*
 * autoload.php: finds the classes of this package without composer.
 *
 * It stands in front of every page, most of which may never start a session,
 * so a class is loaded when it is first named. Included twice, even from two
 * folders, it does no harm: the first copy that has the class gives it.
 */

spl_autoload_register(static function (string $class): void {
    if (strncmp($class, 'Sessiond\\', 9) === 0) {
        $file = __DIR__ . '/src/' . strtr(substr($class, 9), '\\', '/') . '.php';
        if (is_file($file)) {
            require_once $file;
        }
    }
});
