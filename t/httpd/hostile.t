#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# A web child that somebody has taken over (t/httpd/modules/mod_hostile.c): it
# finds no session in its memory, may not look into the session process, and
# scribbles over all the shared memory it has. The sessions stay whole, neither
# httpd's parent nor the session process falls for anything, and nobody is
# signalled that is not our child: kill_witness.c writes down whom httpd signals.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_fetch frame_get);
use Sessiond::Test::Load   qw(make_value check_value);
use Sessiond::Test::Net    qw(is_alive now nap);

plan skip_all => 'another library is preloaded already' if $ENV{SESSIOND_SANITIZED};

my $MASK = "\x5a";
my $HOSTILE = Sessiond::Test::Httpd->test_library('t/httpd/modules/mod_hostile');
my $WITNESS = Sessiond::Test::Httpd->test_library('t/httpd/preload/kill_witness');

# Put together here, so that no other memory has it by chance.
sub random_text () { return join '-', map { sprintf '%08x', int rand 0xffff_ffff } 1 .. 6 }
sub masked ($bytes) { return unpack 'H*', $bytes ^. $MASK x length $bytes }

my %sessions;

sub stored_and_whole ($h, $when) {
    my $c = Sessiond::Test::Client->new($h->port);
    my ($outcome, @replies) = $c->call(map { frame_get($_) } my @keys = sort keys %sessions);
    my @bad = grep { ($replies[$_]{data} // '') ne $sessions{ $keys[$_] } } 0 .. $#keys;
    is_deeply([$outcome, @bad], ['ok'], "$when: all " . @keys . ' sessions are whole');
    return;
}

sub start ($mpm, $name) {
    my $h = Sessiond::Test::Httpd->new(name => $name, mpm => $mpm, preload => [$WITNESS],
        env => { SESSIOND_WITNESS => '/nowhere' }, config => <<"END");
LoadModule hostile_module "$HOSTILE"
<Location "/hostile">
    SetHandler hostile
</Location>
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 16M
SessiondThreads 2
END
    $h->{env}{SESSIOND_WITNESS} = my $file = $h->root . '/signalled';
    open my $fh, '>', $file or die "$file: $!";
    chmod 0666, $file;
    $h->start;
    my $c = Sessiond::Test::Client->new($h->port);
    %sessions = (random_text() => random_text() . ' ' . random_text(),
        map { ("session-$_" => make_value("session-$_", 1, 50 * $_)) } 1 .. 60);
    $c->store($_, $sessions{$_}) for sort keys %sessions;
    stored_and_whole($h, "$mpm, at the beginning");
    return $h;
}

# One request to some web child; a hash of its lines "name: text".
sub hostile ($h, $query) {
    my ($status, $body) = $h->get("/hostile?$query", timeout => 60);
    my %line = $body =~ /^(.+?): (.*)$/mg;
    return wantarray ? ($status, $body) : \%line;
}

# The same to several children; a list of hashes.
sub hostile_children ($h, $query, $wanted = 2) {
    my %by_pid;
    for (1 .. 100) {
        my $is = hostile($h, $query);
        $by_pid{ $is->{pid} } = $is if $is->{pid};
        last if keys %by_pid >= $wanted;
    }
    return map { $by_pid{$_} } sort keys %by_pid;
}

# Signals of httpd's parent to what was no child of it any more. A restart has
# signalled one that was.
sub signalled ($h, $parent, $whom) {
    open my $fh, '<', $h->root . '/signalled' or die $!;
    return grep { /^$parent .* $whom$/ } map { s/\n//r } readline $fh;
}

sub strangers_signalled ($h, $parent) { return signalled($h, $parent, 'foreign') }

# At its end httpd signals its session process: so the witness was awake.
sub nobody_else_was_signalled ($h, $parent, $mpm) {
    ok($h->stop, "$mpm: all processes end on TERM");
    cmp_ok(scalar(signalled($h, $parent, 'child')), '>', 0, "$mpm: the witness has seen the parent signal its child");
    is_deeply([strangers_signalled($h, $parent)], [], "$mpm: and nobody else");
    return;
}

sub pages_are_sane ($h, $when) {
    my $is = $h->status;
    is($is->{SessiondState}, 'running', "$when: the state");
    ok(is_alive($is->{SessiondPid}), "$when: a pid that lives");
    is($is->{SessiondSessions}, scalar keys %sessions, "$when: sessions");
    cmp_ok($is->{SessiondUptime}, '<', 600, "$when: uptime");
    cmp_ok($is->{SessiondStoreUptime}, '<', 600, "$when: uptime of the store");
    cmp_ok($is->{SessiondMemoryUsed}, '<', 16 << 20, "$when: memory");
    is($is->{SessiondRepairedItems}, 0, "$when: nothing is called damaged");
    for my $page (qw(/sessiond-status /sessiond-status?metrics /server-status /server-status?auto)) {
        my ($status) = $h->get($page);
        is($status, 200, "$when: $page");
    }
    return;
}

for my $mpm (qw(prefork event)) {
    my $h = start($mpm, 'hostile');
    my ($parent, $session) = ($h->pid, $h->sessiond_pid);

    subtest "$mpm: no session is in a web child's memory" => sub {
        my ($secret) = grep { !/^session/ } keys %sessions;
        for my $needle ($secret, $sessions{$secret}) {
            my @found = hostile_children($h, 'search&plant=' . masked(random_text()) . '&needle=' . masked($needle));
            ok(@found >= 2, scalar(@found) . ' children looked');
            like($_->{plant}, qr/^found 1 in \d+ mappings/, 'what is there is found') for @found;
            like($_->{needle}, qr/^found 0 in \d+ mappings, \d{7}/, 'the session is not') for @found;
        }
    };

    subtest "$mpm: the session process is closed to it" => sub {
        my $is = hostile($h, "attack&pid=$session");
        my $signal = delete $is->{signal};
        delete $is->{pid};
        cmp_ok(scalar(keys %$is), '>=', 10, 'attacks were tried');
        is_deeply([grep { $is->{$_} eq 'yes' } sort keys %$is], [], 'none came through');
        is($signal, 'yes', 'it may be signalled: it runs as the same user');
    };

    subtest "$mpm: scribbling over what is shared" => sub {
        my @done = hostile_children($h, 'scribble&what=others');
        ok(@done >= 2, scalar(@done) . ' children scribbled');
        for my $did (@done) {
            my ($board) = grep { /memfd:sessiond/ } keys %$did;
            is($did->{ $board // '' }, 'Permission denied', 'the notice board cannot be made writable');
            is_deeply([grep { !/memfd:sessiond|^pid$/ } keys %$did], [], 'there is nothing else of ours');
        }
        pages_are_sane($h, 'then');
        is($h->check, 'clean', 'the store is clean');
        stored_and_whole($h, 'then');
        my $old = $h->kill_sessiond;
        $h->allow_log(qr/session process \d+ was killed by signal 9/);
        $session = $h->wait_respawn($old);
        pages_are_sane($h, 'after a death');
        is($h->check, 'clean', 'the store is clean');
        stored_and_whole($h, 'after a death');
        hostile_children($h, 'scribble&what=others');
        $h->graceful;
        pages_are_sane($h, 'after a graceful restart');
        is($h->check, 'clean', 'the store is clean');
        stored_and_whole($h, 'after a graceful restart');
        is($h->pid, $parent, 'the same parent');
    };

    # httpd takes the session process for a web child of its own then: it reaps
    # it and tells us nothing.
    subtest "$mpm: the session process's pid in every place of the scoreboard" => sub {
        $session = $h->sessiond_pid;
        like(hostile($h, "claim&pid=$session")->{claimed} // '', qr/^\d+ places/, 'put there');
        $h->allow_log(qr{is gone, and httpd did not tell|AH00546|AH03490|AH00052|long lost child});  # it wonders, and kills its own
        if ($mpm eq 'event' || $ENV{SESSIOND_TEST_LONG}) {              # it takes ten seconds
            kill KILL => $session;
            $session = $h->wait_respawn($session);
            pass('a death that httpd does not tell of is found out');
            is($h->status->{SessiondRespawns}, 2, 'and counted');
            stored_and_whole($h, 'then');
            is($h->check, 'clean', 'the store is clean');
            is_deeply([strangers_signalled($h, $parent)], [], 'nobody else was signalled');
            hostile($h, "claim&pid=$session");
        }
        kill KILL => $session;
        $h->wait_for(sub { !-d "/proc/$session" }, 20, 'httpd reaps it');
        my ($secret) = grep { !/^session/ } keys %sessions;
        my $waiting = Sessiond::Test::Client->new($h->port);
        $waiting->open;
        $waiting->send(frame_fetch($secret));
        $h->graceful;
        is_deeply([$waiting->read_all], ['ok', $sessions{$secret}], 'a restart right then serves who waits');
        is_deeply([strangers_signalled($h, $parent)], [], 'and signals nobody else');
    };
    nobody_else_was_signalled($h, $parent, $mpm);
    $h->finish;
}

# The scoreboard is httpd's and writable for every web child, by design. What
# httpd makes of a ruined one is its own affair (it starts no more children,
# until a hard restart gives it a new one); sessions are served all the while.
for my $mpm (qw(prefork event)) {
    my $h = start($mpm, 'scoreboard');
    my $parent = $h->pid;
    $h->allow_log(qr/:(?:error|warn)\] .*AH\d{5}|was killed by signal 9|is gone, and httpd did not tell/);
    my $serving = sub () { return $h->error_log =~ /.*process (\d+) serves sessions/s && $1 };
    my $c = Sessiond::Test::Client->new($h->port);
    my $checks = sub () { return scalar(() = $h->error_log =~ /check of the store: clean/g) };
    my $still = sub ($when) {
        my $pid = $serving->();
        subtest "$mpm, $when" => sub {
            my $before = $checks->();
            kill USR2 => $pid;
            ok($h->eventually(sub { $checks->() > $before }), 'the store is clean');
            stored_and_whole($h, 'then');
            is($c->store('later', $when), 'ok', 'a store');
            is_deeply([$c->fetch('later')], ['ok', $when], 'a fetch');
            ok(is_alive($parent), 'the parent lives');
        };
        return $pid;
    };

    hostile($h, 'scribble&what=scoreboard');
    my $old = $still->('a ruined scoreboard');
    kill KILL => $old;
    ok($h->eventually(sub { $serving->() != $old }), "$mpm: a killed session process is replaced");
    $old = $still->('after a death');
    kill USR1 => $parent;
    ok($h->eventually(sub { $serving->() != $old }), "$mpm: a graceful restart has a new one");
    $old = $still->('after a graceful restart');
    kill HUP => $parent;
    ok($h->eventually(sub { $serving->() != $old }), "$mpm: a hard restart too");
    ok($h->eventually(sub { ($h->get('/ok.txt', timeout => 5))[0] == 200 }), "$mpm: which gives httpd a new scoreboard");
    $still->('after a hard restart');
    delete $sessions{later};
    $c->delete('later');
    subtest "$mpm: the pages are right again" => sub { pages_are_sane($h, 'after a hard restart') };
    $h->stop;
    nobody_else_was_signalled($h, $parent, $mpm);
    $h->finish;
}
done_testing;
