#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# What an admin sees: the section in server-status, where the real apachectl
# must show it (it prints the page up to the first line that ends in
# "process"), our own page in three formats, the numbers in them, and what they
# say while the session process is down: the last counters, never zeros.
# A session id is a password: none may appear in full, in a page or in the log.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_get frame_write);
use Sessiond::Test::Net    qw(nap now);

my $h = Sessiond::Test::Httpd->new(name => 'status', log_level => 'info sessiond:trace8', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 16M
END
$h->allow_log(qr/exit signal Killed|session process.*(?:kill|signal|ended|died|exit)/i);
my $c   = Sessiond::Test::Client->new($h->port);
my $ext = Sessiond::Test::Client->new($h->port);

# The table of counters is the source for every format.
my (%key, %field);
{
    my $table = Sessiond::Test::Httpd->top_srcdir . '/shm/counters.h';
    open my $fh, '<', $table or die "$table: $!";
    while (my $line = readline $fh) {
        my ($field, $key, $kind) = $line =~ /^\s*X\((\w+),\s*(\w+),\s*(COUNTER|GAUGE),/ or next;
        $key{$key} = $kind;
        $field{$field} = $key;
    }
}
cmp_ok(scalar keys %key, '>=', 20, 'the table of counters is read');

my @ids = map { sprintf 'sess-%02d-0123456789abcdefghijklmnop', $_ } 1 .. 13;
subtest 'numbers' => sub {
    my $before = $h->status;
    is($before->{SessiondSessions}, 0, 'no session at first');
    is($c->store($_, "data of $_"), 'ok', 'store') for @ids;
    is($h->value('Sessions'), 13, 'thirteen right after thirteen stores');
    is($h->server_status->{SessiondSessions}, 13, 'in server-status?auto as well');
    $c->fetch($ids[0]) for 1 .. 3;
    $c->fetch("none$_") for 1 .. 2;
    $c->delete($ids[12]);
    $c->delete($ids[12]);
    $ext->call(frame_get($ids[1]), frame_get('none'), frame_write('w-key', 'd', 0, 0), frame_write('w-key', 'd', 0, 0));
    $c->exchange("F\0\0\0\1.");
    my $is = $h->status;
    my %grown = map { $_ => $is->{"Sessiond$_"} - $before->{"Sessiond$_"} } keys %key;
    is($grown{Stores}, 13, 'stores');
    is($grown{FetchHits}, 3, 'fetches that found');
    is($grown{FetchMisses}, 2, 'fetches that did not');
    is($grown{Deletes}, 1, 'deletes');
    is($grown{DeleteMisses}, 1, 'deletes of nothing');
    is($grown{GetHits}, 1, 'gets that found');
    is($grown{GetMisses}, 1, 'gets that did not');
    is($grown{Writes}, 1, 'writes');
    is($grown{WritesFenced}, 1, 'fenced writes');
    is($grown{BadRequests}, 1, 'bad requests');
    is($grown{ConnectionsAccepted}, 13 + 3 + 2 + 2 + 1 + 1, 'connections');
    $h->wait_for(sub { $h->value('ConnectionsOpen') == 1 }, 30, 'one open connection');
    cmp_ok($grown{BytesIn}, '>', 13 * 50, 'bytes in');
    cmp_ok($grown{BytesOut}, '>', 13 * 3 + 3 * 40, 'bytes out');
    is($is->{SessiondSessions}, 13, 'thirteen sessions: one deleted, one written');
    is($h->memory_megabytes, 16, 'the size of the memory');
    cmp_ok($is->{SessiondMemoryUsed}, '>', $before->{SessiondMemoryUsed}, 'memory in use grows');
    cmp_ok($is->{SessiondMemoryFree}, '<', $before->{SessiondMemoryFree}, 'memory free shrinks');
    cmp_ok($is->{SessiondMemoryFree}, '>', 14 << 20, 'most is free');
};

subtest '?auto' => sub {
    my ($status, $body, $head) = $h->get('/sessiond-status?auto');
    is($status, 200, 'answers');
    like($head, qr{^Content-Type: text/plain}mi, 'as plain text');
    my %is = $body =~ /^(\w+): (.*)$/mg;
    is_deeply([grep { !exists $is{"Sessiond$_"} } sort keys %key], [], 'every counter of the table is there');
    is_deeply([grep { ($is{"Sessiond$_"} // '') !~ /^\d+$/ } sort keys %key], [], 'and a number');
    my @besides = qw(State Pid Uptime StoreUptime Respawns Sessions MemorySize MemoryUsed MemoryFree LargestValue
        LastCheck Checks LastRepair LastHandover LongestLockWait);
    is_deeply([grep { !exists $is{"Sessiond$_"} } @besides], [], 'and what is no counter');
    is($is{SessiondState}, 'running', 'the state');
    is($is{SessiondLastCheck}, 'never', 'no check was asked for');
    is($is{SessiondRespawns}, 0, 'no respawn');
    is(scalar(grep { !/^Sessiond\w+: \S/ } split /\n/, $body), 0, 'nothing else is in it') or diag $body;
    my ($ours) = $h->server_status;
    is_deeply([grep { !exists $ours->{$_} } qw(SessiondState SessiondSessions SessiondMemoryFree)], [],
        'server-status?auto has the main ones');
    is($h->check, 'clean', 'check()');
    is($h->value('Checks'), 1, 'is counted');
    is($h->value('LastCheck'), 'clean', 'and told');
};

subtest 'session locks' => sub {
    my ($key, @c) = ('0123456789abcdef0123456789abcdef', map { Sessiond::Test::Client->new($h->port) } 1 .. 3);
    my $lock = pack('a1 N N', 'L', length $key, 60_000) . $key;
    $_->open for @c;
    $_->send($lock) for $c[0];
    is(($c[0]->read_reply)[1]{type}, 'N', 'one holds a lock');
    $_->send($lock) for @c[1, 2];
    my $line = $h->wait_for(sub { my $text = $h->status->{SessiondLock1} // ''; $text =~ /2 waiting/ && $text }, 30, 'the lock on the page');
    like($line, qr/^0123\.\.\. \(32 bytes\) held by 127\.0\.0\.1 for \d+ s, 2 waiting, the first for \d+ s$/, 'masked, with its holder');
    my ($status, $page) = $h->get('/sessiond-status');
    like($page, qr{<td>0123\.\.\. \(32 bytes\)</td><td>127\.0\.0\.1</td>}, 'on the HTML page, too');
    unlike($page . $h->get('/sessiond-status?auto') . $h->get('/server-status'), qr/\Q$key\E/, 'and nowhere in full');
    is_deeply([@{ $h->status }{qw(SessiondLocksHeld SessiondLockWaiters)}], [1, 2], 'counted');
    $_->close for @c;
    $h->wait_for(sub { !defined $h->status->{SessiondLock1} }, 30, 'the end of the lock');
    is($h->value('LocksHeld') + $h->value('LockWaiters'), 0, 'nobody holds or waits');
};

subtest '?metrics' => sub {
    my ($status, $body, $head) = $h->get('/sessiond-status?metrics');
    is($status, 200, 'answers');
    like($head, qr{^Content-Type: (?:text/plain|application/openmetrics-text)}mi, 'as text');
    my @missing = grep { $body !~ /^sessiond_${_}(?:_total)?(?:\{[^}\n]*\})? \d/m } sort keys %field;
    is_deeply(\@missing, [], 'every counter of the table is there');
    my @odd = grep { !/^#/ && !/^sessiond_[a-z0-9_]+(?:\{[^}]*\})? -?[\d.e+]+$/ } split /\n/, $body;
    is_deeply(\@odd, [], 'each line is a metric or a comment');
    like($body, qr/^sessiond_stores(?:_total)?(?:\{[^}\n]*\})? 13(?:\.0)?$/m, 'the number is right');
    like($body, qr/^sessiond_sessions(?:\{[^}\n]*\})? 13(?:\.0)?$/m, 'sessions as well');
};

my $process_line = qr/process\s*$/m;
subtest 'the pages' => sub {
    my ($status, $page, $head) = $h->get('/server-status');
    is($status, 200, 'server-status answers');
    like($page, qr{</html>}i, 'to its end');
    my ($above) = $page =~ /^(.*?)<pre>/s;
    like($above // '', qr/session server: running/i, 'our summary stands above the scoreboard');
    like($above // '', qr/\b13\b[^<]*session|session[^<]*\b13\b/i, 'with the sessions');
    ($status) = $h->get('/server-status?notable');
    is($status, 200, 'server-status?notable');
    ($status, $page, $head) = $h->get('/sessiond-status');
    is($status, 200, 'sessiond-status answers');
    like($head, qr{^Content-Type: text/html}mi, 'as HTML');
    like($page, qr{<html.*</html>}is, 'to its end');
    like($page, qr/>\s*13\s*</, 'with the sessions');
    my @lines = map { s/<[^>]*>//gr } split /<br[^>]*>|<\/(?:p|dt|dd|td|tr|li|h\d)>|\n/i, $page;
    is_deeply([grep { /process\s*$/ } @lines], [], 'no line ends in "process"');
};

sub program (@names) {
    for my $name (@names) {
        my ($found) = grep { -x } map { "$_/$name" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/apache2/bin';
        return $found if $found;
    }
    return undef;
}

SKIP: {
    my $lynx = $ENV{LYNX} || program('lynx') || skip 'no lynx', 1;
    my $apachectl = $ENV{APACHECTL} || program('apache2ctl', 'apachectl') || skip 'no apachectl', 1;
    subtest 'apachectl status' => sub {
        my $url  = 'http://127.0.0.1:' . $h->http_port . '/server-status';
        my $root = $h->root;
        my %environment = (
            APACHE_LYNX => "$lynx -dump", APACHE_STATUSURL => $url, APACHE_CONFDIR => $root,
            APACHE_ENVVARS => '/dev/null', APACHE_RUN_DIR => "$root/run", APACHE_LOCK_DIR => "$root/run",
            APACHE_ULIMIT_MAX_FILES => 'true', APACHE_RUN_USER => (getpwuid $>)[0],
        );
        mkdir "$root/run/socks";
        # The original script has the URL written into it instead.
        open my $fh, '<', $apachectl or die "$apachectl: $!";
        my $script = join '', readline $fh;
        if ($script !~ /APACHE_STATUSURL/) {
            $script =~ s/^STATUSURL=.*/STATUSURL="$url"/m;
            $script =~ s/^LYNX=.*/LYNX="$lynx -dump"/m;
            $apachectl = "$root/run/apachectl";
            open my $out, '>', $apachectl or die $!;
            print {$out} $script;
            close $out;
            chmod 0755, $apachectl;
        }
        my ($status, $shown) = do {
            local @ENV{ keys %environment } = values %environment;
            $h->run($apachectl, 'status');
        };
        is($status, 0, "$apachectl status") or diag $shown;
        like($shown, qr/Server Version: Apache/, 'shows the server');
        like($shown, qr/session server: running/i, 'and our summary');
        like($shown, qr/\b13\b[^\n]*session|session[^\n]*\b13\b/i, 'with the sessions');
        like($shown, $process_line, 'it ends as ever');
        # What lynx still had to say when awk left is Debian's noise on stderr.
        $shown =~ s/^'?\S*lynx.*//ms;
        like($shown, qr/Open slot with no current process\s*\z/, 'with the line it has always ended with');
        my ($whole) = grep { /session server/i } split /\n\n/, do {
            local @ENV{ keys %environment } = values %environment;
            ($h->run($apachectl, 'fullstatus'))[1];
        };
        ok($whole, 'fullstatus has it too');
    };
}

subtest 'while the session process is down' => sub {
    my $before = $h->status;
    my ($down, $page, $shown, $until) = (undef, '', '', now() + 60);
    # The first respawn comes at once; each later one waits longer, until there
    # is time to look at everything before the next process serves.
    until ($down || now() > $until) {
        my $is = $h->status;
        if ($is->{SessiondState} eq 'running') { kill KILL => $is->{SessiondPid} }
        else {
            $page  = ($h->get('/sessiond-status'))[1];
            $shown = ($h->get('/server-status'))[1];
            $down  = $is if $h->value('State') ne 'running';
        }
        nap(0.005);
    }
    ok($down, 'the state is seen') or return;
    like($down->{SessiondState}, qr/^(?:down|starting)$/, 'the state says so');
    like($page, qr/not running since \d[^<]*, respawn \d/, 'our page says since when, and which respawn it is');
    like($shown, qr/not running since \d[^<]*, respawn \d/, 'server-status says so too');
    like($shown, qr/\b13\b[^<]*session|session[^<]*\b13\b/i, 'with the sessions that were last known');
    cmp_ok($down->{SessiondRespawns}, '>', 0, 'respawns are counted');
    is($down->{SessiondSessions}, $before->{SessiondSessions}, 'the sessions are the last that were known');
    for my $counter (qw(Stores FetchHits Writes Deletes)) {
        is($down->{"Sessiond$counter"}, $before->{"Sessiond$counter"}, "$counter stays");
    }
    cmp_ok($down->{SessiondMemoryUsed}, '>=', $before->{SessiondMemoryUsed}, 'memory as well');
    my $running = $h->wait_for(sub { my $is = $h->status; $is->{SessiondState} eq 'running' && $is }, 60, 'the next process');
    is($running->{SessiondStores}, $before->{SessiondStores}, 'counters go on afterwards');
    is_deeply([$c->fetch($ids[0])], ['ok', "data of $ids[0]"], 'so do the sessions');
};

subtest 'no session id in full anywhere' => sub {
    for my $path (map { ("/server-status$_", "/sessiond-status$_") } '', '?auto', '?metrics', '?notable') {
        my ($status, $body) = $h->get($path);
        next if $status != 200;
        is_deeply([grep { index($body, $_) >= 0 } @ids, 'w-key'], [], "not in $path");
    }
    my $log = $h->error_log;
    is_deeply([grep { index($log, $_) >= 0 } @ids], [], 'not in the error log, whatever the level');
};

$h->finish;
done_testing;
