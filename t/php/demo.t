#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# demo.t: the demo's page under two of PHP's own web servers that share one
# session server: one session whichever answers, the two buttons, links that
# come from the environment and must not break out of the page, and an outage
# that is a 503 with a sentence and leaves the user's cookie and data alone.
use v5.36;
use File::Basename qw(dirname);
use lib dirname(__FILE__) . '/lib';
use Test::More;
use FakeServer;
use PhpTest;
use Sessiond::Test::Net qw(claim_port);

plan skip_all => 'no php' unless php_binary();

my $LONG   = '?timeout=60';
my $demo   = top_srcdir() . '/php/demo';
my $refuse = sub ($s, $f) { $f->{type} eq 'W' ? [ 'keep', FakeServer::reply('E', 'memory full') ] : undef };
my $server = FakeServer->start(hook => $refuse)->hook_off;
my @ini    = ('session.save_path' => $server->dsn($LONG), 'session.use_strict_mode' => 1, log_errors => 1, display_errors => 1);
my $a      = web($demo, @ini, env => { SESSIOND_DEMO_NAME => 'A',
    SESSIOND_DEMO_OTHER => 'http://127.0.0.1:8082/a b?x="1"&y=<2>', SESSIOND_DEMO_STATUS => 'https://status.example/server-status' });
my $b      = web($demo, @ini, env => { SESSIOND_DEMO_NAME => 'B <b>"&', SESSIOND_DEMO_OTHER => 'javascript:alert(1)', SESSIOND_DEMO_STATUS => '' });
my $bare   = web($demo, @ini);

sub cookie ($header) {
    my ($id) = ($header->{'set-cookie'}[-1] // '') =~ /^PHPSESSID=([^;]+)/;
    return $id;
}

# Not a validator, but no tag stays open and nothing is left half escaped.
sub tidy ($body, $name) {
    my @open;
    my $bad = '';
    for my $tag ($body =~ /<(\/?[a-z][a-z0-9]*)/gi) {
        next if $tag =~ /^(?:meta)$/;
        if ($tag =~ m{^/(.*)}) { $bad .= " </$1>" if (pop(@open) // '') ne $1 }
        else                   { push @open, $tag }
    }
    is("@open$bad", '', "$name: every tag is closed");
    unlike($body, qr/<script|\son\w+=/i, "$name: no script");
}

my ($status, $body, $header) = web_request($a, '/?plain=1');
my $id = cookie($header);
is($status, 200, 'the first visit');
like($header->{'content-type'}[0], qr{^text/plain}, 'is plain text');
is($body, "visits: 1\nserver: A\nsession: " . substr($id, 0, 4) . '*' x (length($id) - 4) . "\n", 'in lines, the id masked');
($status, $body) = web_request($b, '/?plain=1', cookie => "PHPSESSID=$id");
like($body, qr/^visits: 2\nserver: B <b>"&\n/, 'the other server knows the session');
($status, $body, $header) = web_request($a, '/', cookie => "PHPSESSID=$id");
like($header->{'content-type'}[0], qr{^text/html}, 'without ?plain=1 it is HTML');
like($body, qr{<div class="count">3</div>}, 'with the count');
tidy($body, 'page A');
unlike($body, qr/\Q$id\E/, 'page A: the id is not shown');
like($body, qr{href="http://127\.0\.0\.1:8082/a b\?x=&quot;1&quot;&amp;y=&lt;2&gt;">}, 'page A: the link to the other server is escaped');
like($body, qr{href="https://status\.example/server-status"}, 'page A: the link to the status page');
like(join(' ', @{ $header->{'cache-control'} }), qr/no-store/, 'page A: is not to be cached');
($status, $body) = web_request($b, '/', cookie => "PHPSESSID=$id");
tidy($body, 'page B');
like($body, qr/B &lt;b&gt;&quot;&amp;/, 'page B: the name is escaped');
unlike($body, qr/javascript|<a /, 'page B: what is no http address is no link');
($status, $body) = web_request($bare, '/?plain=1', cookie => "PHPSESSID=$id");
like($body, qr/^visits: 5\nserver: (?:127\.0\.0\.1|demo\.test|localhost):$bare->{port}\n/m, 'without a name it shows host and port');

($status, $body, $header) = web_request($b, '/?plain=1', cookie => "PHPSESSID=$id", method => 'POST', body => 'do=renew');
my $new = cookie($header);
isnt($new, $id, 'new id: there is one');
like($body, qr/^visits: 6\n/, 'new id: the data moved along');
is($server->value($id), undef, 'new id: the old one is gone');
($status, $body) = web_request($a, '/?plain=1', cookie => "PHPSESSID=$new");
like($body, qr/^visits: 7\n/, 'new id: it works on the other server');
($status, $body) = web_request($a, '/?plain=1&do=logout', cookie => "PHPSESSID=$new");
like($body, qr/^visits: 8\n/, 'a mere link does not log out');
($status, $body) = web_request($a, '/?plain=1&plain[]=x', cookie => "PHPSESSID=$new", method => 'POST', body => 'do[]=logout');
is($status, 200, 'a parameter that is a list does no harm');

($status, $body) = web_request($a, '/', cookie => "PHPSESSID=$new", method => 'POST', body => 'do=logout');
like($body, qr/Logged out/, 'log out: says so');
tidy($body, 'log out');
is($server->value($new), undef, 'log out: the session is gone');
($status, $body) = web_request($b, '/?plain=1', cookie => "PHPSESSID=$new");
like($body, qr/^visits: 1\n/, 'log out: the next visit is the first');

# --- outages ------------------------------------------------------------------

my $there = 'demo-0123456789abcdefghij';
$server->put($there, 'visits|i:5;since|s:1:"x";');
my $down = web($demo, @ini, 'session.save_path' => 'tcp://127.0.0.1:' . claim_port() . $LONG, env => { SESSIOND_DEMO_NAME => 'D' });
for my $plain ('', '?plain=1') {
    ($status, $body, $header) = web_request($down, "/$plain", cookie => "PHPSESSID=$there");
    is($status, 503, "outage$plain: 503");
    like($body, qr/The session server does not answer/, "outage$plain: a clear sentence");
    unlike($body, qr/visits|Warning|Exception|tcp:/i, "outage$plain: no count, no inner workings");
    is_deeply($header->{'set-cookie'}, undef, "outage$plain: the cookie stays");
    is($header->{'retry-after'}[0], 5, "outage$plain: Retry-After");
    tidy($body, 'outage') unless $plain;
}
$server->hook_on;
($status, $body) = web_request($a, '/?plain=1', cookie => "PHPSESSID=$there");
is($status, 503, 'a write that fails: 503');
like($body, qr/^error: The session server did not take this visit/, 'a write that fails: not counted');
is($server->value($there), 'visits|i:5;since|s:1:"x";', 'a write that fails: the data is as it was');
$server->hook_off;
($status, $body) = web_request($a, '/?plain=1', cookie => "PHPSESSID=$there");
like($body, qr/^visits: 6\n/, 'afterwards the session is there');

$server->put($there, 'visits|i:5;since|s:1:"x";');
my $holder = FakeServer->start(hook => do { my $n = 0; sub ($s, $f) { $s->take_lock($f->{key}) if $f->{type} eq 'L' && !$n++; return } })->put($there, 'visits|i:5;');
my $impatient = web($demo, @ini, 'session.save_path' => $holder->dsn("$LONG&lock_wait=0.2"));
($status, $body) = web_request($impatient, '/?plain=1', cookie => "PHPSESSID=$there");
is($status, 503, 'a page that waits too long for another one: 503');
like($body, qr/^error: Another page of yours is still at work/, 'and says so');

my $unregistered = web($demo, 'auto_prepend_file' => '', 'session.save_path' => '/tmp', log_errors => 1);
($status, $body) = web_request($unregistered, '/?plain=1');
is($status, 503, 'without the handler: 503');
like($body, qr/auto_prepend_file/, 'without the handler: says what to set');

done_testing();
