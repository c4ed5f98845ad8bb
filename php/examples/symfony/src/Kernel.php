<?php

// SPDX-License-Identifier: Apache-2.0

declare(strict_types=1);

namespace App;

use Symfony\Bundle\FrameworkBundle\FrameworkBundle;
use Symfony\Bundle\FrameworkBundle\Kernel\MicroKernelTrait;
use Symfony\Component\DependencyInjection\Loader\Configurator\ContainerConfigurator;
use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\HttpFoundation\Response;
use Symfony\Component\HttpKernel\Kernel as BaseKernel;
use Symfony\Component\Routing\Loader\Configurator\RoutingConfigurator;

/**
 * Kernel.php: the smallest Symfony application with a session: it counts
 * visits, and migrates the session as a log-in does. What matters stands in
 * config/: a service with our DSN, named in framework.session.handler_id.
 */
final class Kernel extends BaseKernel
{
    use MicroKernelTrait;

    public function registerBundles(): iterable
    {
        return [new FrameworkBundle()];
    }

    public function getProjectDir(): string
    {
        return dirname(__DIR__);
    }

    public function getCacheDir(): string
    {
        return (getenv('APP_CACHE_DIR') ?: $this->getProjectDir() . '/var/cache') . '/' . $this->environment;
    }

    public function getLogDir(): string
    {
        return getenv('APP_LOG_DIR') ?: $this->getProjectDir() . '/var/log';
    }

    protected function configureContainer(ContainerConfigurator $container): void
    {
        $container->import('../config/packages/*.yaml');
        $container->import('../config/services.yaml');
    }

    protected function configureRoutes(RoutingConfigurator $routes): void
    {
        $routes->add('visit', '/')->controller([$this, 'visit']);
        $routes->add('login', '/login')->controller([$this, 'login']);
        $routes->add('logout', '/logout')->controller([$this, 'logout']);
    }

    public function visit(Request $request): Response
    {
        $session = $request->getSession();
        $session->set('visits', $session->get('visits', 0) + 1);
        return $this->say($session->get('visits') . ' ' . $session->get('user', 'nobody'));
    }

    public function login(Request $request): Response
    {
        $session = $request->getSession();
        $session->start();    // one that has not begun does not migrate
        $session->migrate(true);
        $session->set('user', 'someone');
        return $this->say('logged in');
    }

    public function logout(Request $request): Response
    {
        $session = $request->getSession();
        $session->start();
        $session->invalidate();
        return $this->say('logged out');
    }

    private function say(string $text): Response
    {
        return new Response("$text\n", 200, ['Content-Type' => 'text/plain']);
    }
}
