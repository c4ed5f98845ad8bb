# SPDX-License-Identifier: Apache-2.0
#
# Bench::Idle: what a connection costs that does nothing, in the memory of the
# server's process (the kernel's part is the same for all servers). First the
# connections send nothing at all, as those of some sharedance clients; then
# each says hello, gets its answer, and goes idle, as persistent ones do.
#
# A server may take connections that send nothing late (TCP_DEFER_ACCEPT), or
# never: so we wait until ours has them.
package Bench::Idle;
use v5.36;

use IPC::Open2 qw(open2);
use Bench::Series qw(table);
use Bench::Server qw(start_ours start_memcached start_redis on_core load_core);
use Sessiond::Test::Net qw(nap now socket_inodes);

use constant { SETTLED => 0.3, LONG => 90, SPARE => 200 };

# Descriptors that this machine lets us have.
sub _limit () {
    my $hard = `sh -c 'ulimit -Hn'`;
    return $hard =~ /^(\d+)/ ? $1 : 1 << 20;
}

sub _tell ($idle, $word) {
    print { $idle->{to} } "$word\n";
    my $answer = readline($idle->{from}) // '';
    chomp $answer;
    die "idle: $answer\n" unless $answer =~ /\b$word$/;
    return $answer;
}

sub _wait_until_taken ($server, $connections) {
    my $until = now() + LONG;
    my ($pid) = $server->pids;
    while (keys %{ socket_inodes($pid) } < $connections) {
        die $server->name . ' did not take ' . $connections . " connections\n" if now() > $until;
        nap(0.1);
    }
    nap(SETTLED);
    return;
}

sub _grown ($server, $before, $connections) {
    my $now = $server->memory;
    return map { ($now->{$_} - $before->{$_}) / $connections } qw(resident own);
}

sub _one ($server, $connections, $opt) {
    my %value;
    $server->run('load', t => 0.1, w => 0, k => 100, f => undef);    # what it needs for any client at all
    my $before = $server->memory;
    my %idle;
    $idle{pid} = on_core(load_core(), sub {
        open2($idle{from}, $idle{to}, "$ENV{abs_top_builddir}/t/bench/idle",
            '-d', $server->dialect, '-p', $server->port, '-c', $connections);
    });
    $idle{to}->autoflush(1);
    _tell(\%idle, 'open');
    _wait_until_taken($server, $connections);
    @value{qw(silent_resident silent_own)} = _grown($server, $before, $connections);
    _tell(\%idle, 'hello');
    nap(SETTLED);
    @value{qw(resident own)} = _grown($server, $before, $connections);
    my $load = $server->run('load', t => $opt->{seconds} / 2, w => $opt->{warm_up}, f => undef,
        s => $opt->{bytes}, c => $opt->{clients}, k => $opt->{keys});
    @value{qw(cpu p99)} = @$load{qw(cpu p99)};
    my ($open) = _tell(\%idle, 'count') =~ /^(\d+)/;
    die $server->name . ": of $connections idle connections $open are left\n" if $open != $connections;
    close $idle{to};
    waitpid $idle{pid}, 0;
    return \%value;
}

sub measure ($opt) {
    my $connections = $opt->{connections};
    $connections = _limit() - SPARE if $connections > _limit() - SPARE;
    my $series = Bench::Series->new;
    my @names;
    for my $round (1 .. $opt->{alternations}) {
        for my $start (\&start_ours, \&start_memcached, \&start_redis) {
            my $server = $start->(connections => $connections + SPARE / 2) or next;
            push @names, $server->name unless grep { $_ eq $server->name } @names;
            $series->add($server->name, _one($server, $connections, $opt));
            $server->stop;
        }
    }
    table("$connections idle connections, $opt->{alternations} fresh servers each",
        [ 'server', 'bytes each, nothing sent: resident', 'without shared memory', 'after a hello: resident',
            'without shared memory', 'CPU per operation beside them, us', 'p99, us' ],
        map { my $name = $_;
            [ $name, (map { sprintf '%.0f', $series->of($name, $_) } qw(silent_resident silent_own resident own)),
                sprintf('%.1f', $series->of($name, 'cpu')), sprintf('%.0f', $series->of($name, 'p99')) ] } @names);
    return;
}

1;
