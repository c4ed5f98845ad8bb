#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# phpunit.t: the tests in t/php/phpunit, each one a line here. This file starts
# what they ask: a private httpd with the real module and mod_php under prefork,
# php-fpm behind its proxy_fcgi, and PHP's own web server. What is not installed
# is left out of the list of SAPIs.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib', dirname(__FILE__) . '/../lib';
use Test::More;
use Fpm;
use PhpTest;
use Sessiond::Test::Httpd ();
use Sessiond::Test::Net qw(now nap);

my ($phpunit) = grep { -x } defined $ENV{PHPUNIT} && $ENV{PHPUNIT} =~ m{/} ? $ENV{PHPUNIT} : map {"$_/phpunit"} split /:/, $ENV{PATH};
plan skip_all => 'no php'     unless php_binary();
plan skip_all => 'no phpunit' unless $phpunit;

my $folder = top_srcdir() . '/t/php';
my $fpm_is_here = Fpm->binary && Sessiond::Test::Httpd->has_module('proxy_fcgi');
my $httpd = Sessiond::Test::Httpd->new(
    name => 'phpunit', mpm => 'prefork', php => scalar(Sessiond::Test::Httpd->php_module),
    mpm_config => "StartServers 12\nMinSpareServers 4\nMaxSpareServers 48\nMaxRequestWorkers 96\n",
    php_save_path => 'tcp://127.0.0.1:%PORT%?timeout=20&amp;persistent=on' =~ s/&amp;/&/r,
    modules => $fpm_is_here ? [qw(proxy proxy_fcgi)] : [],
    config => "SessiondListen 127.0.0.1:%PORT%\nSessiondLockTimeout 20\n"
        . (Sessiond::Test::Httpd->php_module ? "php_value session.use_strict_mode 1\n" : '')
        . ($fpm_is_here ? Fpm->httpd_config : ''),
)->start;
my $lease = Sessiond::Test::Httpd->new(name => 'lease', config => "SessiondListen 127.0.0.1:%PORT%\nSessiondLockTimeout 1\n")->start;
my $base = '127.0.0.1:' . $httpd->http_port;
my $dsn  = 'tcp://127.0.0.1:' . $httpd->port . '?timeout=20&persistent=on';

sub copy_page ($to) {
    open my $from, '<', "$folder/pages/count.php" or die $!;
    local $/;
    $httpd->write_doc($to, scalar <$from>);
    return;
}
mkdir $httpd->root . '/htdocs/fpm', 0755;
copy_page($_) for 'count.php', 'fpm/count.php';

my (@sapis, $fpm);
push @sapis, "mod_php=$base/" if Sessiond::Test::Httpd->php_module;
if ($fpm_is_here) {
    $fpm = Fpm->start(httpd => $httpd, workers => 42, ini => {
        auto_prepend_file => $httpd->php_folder . '/prepend.php', 'session.save_path' => $dsn, 'session.use_strict_mode' => 1,
    });
    push @sapis, "fpm=$base/fpm/";
}
my $web = web($httpd->root . '/htdocs', 'session.save_path' => $dsn, 'session.use_strict_mode' => 1,
    env => { PHP_CLI_SERVER_WORKERS => 8 });
push @sapis, "cli-server=127.0.0.1:$web->{port}/";
diag('not here: mod_php') unless Sessiond::Test::Httpd->php_module;
diag('not here: php-fpm') unless $fpm;

local %ENV = (
    %ENV,
    SESSIOND_SAPIS => join(' ', @sapis),
    SESSIOND_HTTP  => $base,
    SESSIOND_PORT  => $httpd->port,
    SESSIOND_LEASE_HTTP => '127.0.0.1:' . $lease->http_port,
    SESSIOND_LEASE_PORT => $lease->port,
);
my $log = $httpd->root . '/run/junit.xml';
my ($status, $output) = $httpd->run($phpunit, '--no-configuration', '--do-not-cache-result', '--bootstrap', top_srcdir() . '/php/autoload.php',
    '--log-junit', $log, "$folder/phpunit");

my $text = do { open my $fh, '<', $log or die "no result of phpunit: $output"; local $/; <$fh> };
my $tests = 0;
my $plain = sub ($xml) { $xml =~ s/&#(\d+);/chr $1/ger =~ s/&lt;/</gr =~ s/&gt;/>/gr =~ s/&quot;/"/gr =~ s/&apos;/'/gr =~ s/&amp;/&/gr };
while ($text =~ m{<testcase ([^>]*?)(?:/>|>(.*?)</testcase>)}gs) {
    my ($head, $inside) = ($1, $2 // '');
    my ($name) = $head =~ /\bname="([^"]*)"/;
    my ($class) = $head =~ /\bclass="(?:[^"]*\\)?([^"\\]*)"/;
    $tests++;
    if ($inside =~ /<skipped/) { SKIP: { skip "$class: " . $plain->($name), 1 } next }
    ok($inside !~ /<(?:failure|error)\b/, "$class: " . $plain->($name)) or diag($plain->($inside =~ s/<[^>]*>//gr));
}
cmp_ok($tests, '>=', 20, "phpunit ran $tests tests");
is($status, 0, 'phpunit itself is content') or diag($output);
diag($1) while $output =~ /# (\S+: 40 x .*)$/mg;

ok($fpm->stop, 'php-fpm ends on TERM') if $fpm;
is($_->check, 'clean', 'the store is sound') for $httpd, $lease;
$lease->allow_log(qr/exit signal Killed|session process.*(?:kill|signal|ended|died|exit)/i);
$lease->finish;
$httpd->allow_log(qr/AH01067|AH01071|AH01075|proxy_fcgi:error|AH00052: child pid \d+ exit signal Killed|php:error|PHP (?:Fatal error|Warning)/);
$httpd->finish;
done_testing();
