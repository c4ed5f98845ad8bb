#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# symfony.t: the example in php/examples/symfony, which runs with Debian's
# packages: our handler as a service with a DSN behind framework.session. What
# Symfony adds is a proxy of its own between PHP and the handler; a session must
# still cost one round trip at each end, move to a new id at a log-in, and make
# an error page of an outage instead of a blank session.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use Test::More;
use FakeServer;
use PhpTest;
use Sessiond::Test::Net qw(claim_port);

plan skip_all => 'no php' unless php_binary();
plan skip_all => 'no Symfony (php-symfony-framework-bundle, php-symfony-yaml)'
    unless -e '/usr/share/php/Symfony/Bundle/FrameworkBundle/autoload.php' && -e '/usr/share/php/Symfony/Component/Yaml/autoload.php';

my $cache  = File::Temp->newdir('sessiond-XXXXXX', DIR => '/tmp');
my $server = FakeServer->start;

sub start ($dsn) {
    return web(top_srcdir() . '/php/examples/symfony/public', extensions => 1, auto_prepend_file => '', log_errors => 1, display_errors => 0,
        env => { SESSIOND_DSN => $dsn, APP_SECRET => 'for the test', APP_CACHE_DIR => "$cache", APP_LOG_DIR => "$cache" });
}

sub cookie ($header) {
    my ($id) = ($header->{'set-cookie'}[-1] // '') =~ /^PHPSESSID=([^;]+)/;
    return $id;
}

my $web = start($server->dsn('?timeout=60&persistent=on'));
my ($status, $body, $header) = web_request($web, '/');
is("$status $body", "200 1 nobody\n", 'a new session') or diag($body);
my $id = cookie($header) // BAIL_OUT('no cookie: ' . $body);
like($server->value($id), qr/_sf2_attributes/, 'is stored');
is($server->ttl($id), 3600, 'for the lifetime of the configuration');
$server->frames;
($status, $body) = web_request($web, '/', cookie => "PHPSESSID=$id");
is($body, "2 nobody\n", 'it goes on');
is($server->types, 'PLW', 'in one round trip at each end');
($status, $body, $header) = web_request($web, '/login', cookie => "PHPSESSID=$id");
my $new = cookie($header);
ok($new && $new ne $id, 'a log-in gives a new id') or BAIL_OUT('no new id');
is($server->value($id), undef, 'and removes the old session');
($status, $body) = web_request($web, '/', cookie => "PHPSESSID=$new");
is($body, "3 someone\n", 'the data moved along');
web_request($web, '/logout', cookie => "PHPSESSID=$new");
is($server->value($new), undef, 'a log-out removes it');
is(join(' ', $server->held), '', 'no lock is left');

$server->put('known-0123456789abcdefghij', '_sf2_attributes|a:1:{s:6:"visits";i:7;}');
my $down = start('tcp://127.0.0.1:' . claim_port() . '?timeout=5');
($status, $body, $header) = web_request($down, '/', cookie => 'PHPSESSID=known-0123456789abcdefghij');
is($status, 500, 'an outage is an error page');
like($header->{'set-cookie'}[0] // '', qr/^(?:PHPSESSID=known-|\z)/, 'and the cookie stays');
($status, $body) = web_request($web, '/', cookie => 'PHPSESSID=known-0123456789abcdefghij');
is($body, "8 nobody\n", 'afterwards the session is there');
ok($server->stop, 'the fake server ends well');
done_testing();
