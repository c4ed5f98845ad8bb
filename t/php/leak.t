#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# leak.t: no byte of one user's session ever reaches another. One php-fpm worker
# with one pooled connection serves Alice and Bob in turn, through httpd and the
# real module. The handler it runs is a copy with a point after each statement;
# in each round Alice's page dies at one of them, wherever that leaves the
# connection: by kill -9, a fatal error, an uncaught exception, exit, a full
# memory, its time limit, or so that nothing of ours works any more at its end,
# either. Then Bob must get Bob's session and nothing else, and
# Alice's lock must be free. 50 rounds; 1,000 with SESSIOND_TEST_LONG.
use v5.36;
use File::Basename qw(basename dirname);
use lib dirname(__FILE__) . '/lib', dirname(__FILE__) . '/../lib';
use Test::More;
use Fpm;
use PhpTest;
use Sessiond::Test::Client ();
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Net qw(now);

plan skip_all => 'no php'             unless php_binary();
plan skip_all => 'no php-fpm'         unless Fpm->binary;
plan skip_all => 'no mod_proxy_fcgi'  unless Sessiond::Test::Httpd->has_module('proxy_fcgi');

my $ROUNDS = $ENV{SESSIOND_TEST_LONG} ? 1000 : 50;
my @WAYS   = qw(kill fatal exception exit memory hopeless);

my $httpd = Sessiond::Test::Httpd->new(name => 'leak', modules => [qw(proxy proxy_fcgi)], config => 'SessiondListen 127.0.0.1:%PORT%'
        . "\nSessiondLockTimeout 600\n" . Fpm->httpd_config)->start;

# --- a copy of the handler that can die anywhere ------------------------------

sub slurp ($name) { open my $fh, '<', $name or die "$name: $!\n"; local $/; return <$fh> }

sub spit ($name, $text) {
    open my $fh, '>', $name or die "$name: $!\n";
    print {$fh} $text;
    close $fh or die "$name: $!\n";
    chmod 0644, $name;
    return;
}

# A point behind each statement that is whole on its line and inside a method,
# and before each return.
sub with_points ($text) {
    my @out;
    my $ended = 1;    # does a statement begin on this line?
    for my $line (split /^/, $text) {
        my $whole = $ended && $line =~ /^ {8,}[\$\\\w].*;\s*(?:\/\/.*)?$/ && $line !~ /^\s*(?:throw|break|continue|case|default)\b/;
        if ($whole && $line =~ /^(\s*)return\b/) { $line =~ s/^(\s*)/$1\\point(); / }
        elsif ($whole)                           { $line =~ s/;(\s*(?:\/\/.*)?\n)$/; \\point();$1/ }
        push @out, $line;
        $ended = $line =~ /[;{}:]\s*(?:\/\/.*)?$/ || $line =~ m{^\s*(?:/?\*|//|$)} ? 1 : 0;
    }
    return join '', @out;
}

my $copy = $httpd->root . '/points';
mkdir $_, 0755 for $copy, "$copy/src";
my $source = top_srcdir() . '/php';
spit("$copy/autoload.php", slurp("$source/autoload.php"));
for my $path (glob "$source/src/*.php") {
    my $text = slurp($path);
    $text = with_points($text) if $path =~ /(?:Connection|Extended|Client|Pool|SessiondHandler)\.php$/;
    spit("$copy/src/" . basename($path), $text);
}
my $broken = 0;
for my $path (glob "$copy/src/*.php") {
    my $out = qx{'@{[php_binary()]}' -n -l '$path' 2>&1};
    $broken++, diag($out) unless $out =~ /No syntax errors/;
}
is($broken, 0, 'the copy with points is PHP');

mkdir $httpd->root . '/htdocs/fpm', 0755;
spit($httpd->root . '/htdocs/fpm/page.php', <<"END");
<?php
\$points = 0;
function point(): void
{
    global \$points, \$hopeless;
    if (++\$points !== (int) (\$_GET['at'] ?? 0) && !\$hopeless) {
        return;
    }
    switch (\$_GET['way']) {
        case 'hopeless': \$hopeless = true; trigger_error('enough', E_USER_ERROR);
        case 'kill': exec('kill -9 ' . getmypid()); sleep(60);
        case 'fatal': trigger_error('enough', E_USER_ERROR);
        case 'exception': throw new LogicException('enough');
        case 'exit': exit;
        case 'memory': for (\$x = null;;) { \$y = new stdClass; \$y->next = \$x; \$x = \$y; }
        case 'time': set_time_limit(1); while (true);
    }
}
require '$copy/autoload.php';
Sessiond\\SessiondHandler::register();
session_start();
\$_SESSION['n'] = (\$_SESSION['n'] ?? 0) + 1;
\$_SESSION['pad'] = str_repeat(\$_SESSION['name'] ?? '?', 2000);
echo getmypid(), ' ', \$_SESSION['name'] ?? 'nobody', ' ', \$_SESSION['n'], ' ', md5(\$_SESSION['pad']), "\\n";
session_write_close();
echo 'points ', \$points, "\\n";
END

my $fpm = Fpm->start(httpd => $httpd, workers => 1, ini => {
    'session.save_path' => 'tcp://127.0.0.1:' . $httpd->port . '?timeout=20&persistent=on&lock_wait=20',
    'session.use_strict_mode' => 1, memory_limit => '16M', display_errors => 1, html_errors => 0, error_reporting => -1,
});

sub page_of ($id, %query) {
    my $query = join '&', map { "$_=$query{$_}" } sort keys %query;
    return $httpd->get("/fpm/page.php?$query", headers => { Cookie => "PHPSESSID=$id" }, timeout => 60);
}

# Is the lock free? A stranger gets it at once, or when a killed worker's
# connection has ended; far sooner than its lease would.
sub is_free ($key) {
    my $client = Sessiond::Test::Client->new($httpd->port);
    my ($outcome, $hello, $lock) = $client->call(Sessiond::Test::Client::frame_hello('leaktest'), pack('a1 N N', 'L', length $key, 10_000) . $key);
    $client->close;
    return $outcome eq 'ok' && $lock->{type} ne 'B';
}

my $wire = Sessiond::Test::Client->new($httpd->port);
my ($ALICE, $BOB) = ('alice-0123456789abcdefghi', 'bob-0123456789abcdefghijk');
my %n = ($ALICE => 0, $BOB => 0);
$wire->store($ALICE, 'name|s:12:"AliceSSecret";n|i:0;');
$wire->store($BOB, 'name|s:3:"Bob";n|i:0;');
my $bobs_pad = do { require Digest::MD5; Digest::MD5::md5_hex('Bob' x 2000) };

my ($status, $body) = page_of($BOB);
like($body, qr/^\d+ Bob 1 $bobs_pad\npoints (\d+)/, 'a page as it should be') or diag($body);
my ($first) = $body =~ /points (\d+)/;
(undef, $body) = page_of($BOB);
my ($points) = $body =~ /points (\d+)/;
cmp_ok($points, '>', 60, "a page passes $points points");
$n{$BOB} = 2;

my (@leaks, @locked, @lost, %worker, %ended);
for my $round (1 .. $ROUNDS) {
    # Spread over all points in either form, and each way over all of them.
    my $at  = $ROUNDS > $points ? 1 + ($round - 1) % $points : 1 + int(($round - 1) * $points / $ROUNDS);
    my $way = $round % 25 == 0 ? 'time' : $WAYS[ ($round + int($round / $points)) % @WAYS ];
    my $what = "round $round, $way at point $at";
    my (undef, $hers) = page_of($ALICE, at => $at, way => $way);
    push @leaks, "$what: Alice got Bob's: $hers" if $hers =~ /Bob/;
    $ended{$way}++ unless $hers =~ /^points/m;
    my ($code, $his) = page_of($BOB);
    $n{$BOB}++;
    push @leaks, "$what: Bob got $code $his" if $his !~ /^(\d+) Bob $n{$BOB} $bobs_pad\npoints \d+\n\z/ || $his =~ /Alice/;
    $worker{$1}++ if $his =~ /^(\d+)/;
    push @locked, $what unless is_free($ALICE) && is_free($BOB);
    my (undef, $stored) = $wire->fetch($ALICE);
    push @lost, "$what: " . ($stored // 'nothing') unless ($stored // '') =~ /^name\|s:12:"AliceSSecret";n\|i:\d+;(?:pad\|s:24000:"(?:AliceSSecret){2000}";)?\z/;
    my (undef, $bobs) = $wire->fetch($BOB);
    push @lost, "$what: Bob's is " . ($bobs // 'nothing') unless ($bobs // '') =~ /^name\|s:3:"Bob";n\|i:$n{$BOB};pad\|s:6000:"(?:Bob){2000}";\z/;
    last if @leaks + @locked + @lost > 10;
}
is_deeply(\@leaks,  [], "$ROUNDS rounds: nobody gets a byte of another's session");
is_deeply(\@locked, [], "$ROUNDS rounds: no lock is left");
is_deeply(\@lost,   [], "$ROUNDS rounds: every session is whole");
my $killed = () = $fpm->log =~ /exited on signal 9/g;
cmp_ok(scalar(keys %worker), '<=', 1 + $killed, 'Bob was served by the worker that had served Alice, but for those killed')
    or diag($fpm->log);
ok($ended{$_}, "$_: " . ($ended{$_} // 0) . ' of Alice\'s pages died of it') for @WAYS, 'time';

ok($fpm->stop, 'php-fpm ends on TERM');
$httpd->allow_log(qr/AH01067|AH01071|AH01075|proxy_fcgi:error/);
$httpd->finish;
done_testing();
