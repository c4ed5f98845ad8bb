<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

/*
 * index.php: the front controller. With Composer one autoloader knows all; with
 * Debian's php-symfony-framework-bundle and php-symfony-yaml there are three.
 */

$vendor = dirname(__DIR__) . '/vendor/autoload.php';
if (is_file($vendor)) {
    require $vendor;
} else {
    require_once 'Symfony/Bundle/FrameworkBundle/autoload.php';
    require_once 'Symfony/Component/Yaml/autoload.php';
    require_once dirname(__DIR__, 3) . '/autoload.php';
    require_once dirname(__DIR__) . '/src/Kernel.php';
}

$kernel = new App\Kernel(getenv('APP_ENV') ?: 'prod', false);
$request = Symfony\Component\HttpFoundation\Request::createFromGlobals();
$response = $kernel->handle($request);
$response->send();
$kernel->terminate($request, $response);
