# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Crowd: many connections that stay, each in the middle of
# something, held by a few processes.
#
# Load asks whether what was acknowledged is there; a crowd asks whether a
# connection ever notices that the server is replaced under it. Every end that
# was not its own, every byte that is wrong, missing or too many, every wait
# without end is counted by kind:
#   reset closed             the connection ended within a request or an answer
#   reset_idle closed_idle   it ended while nothing was under way
#   refused                  nobody listened
#   wrong                    other bytes or another version than what was stored
#   lost                     there is no value, or an orderly "no"
#   surplus                  more than was asked for
#   refusal                  E, or B though nobody else writes there
#   timeout error died       no byte for that long; another error of the system;
#                            a process of the crowd did not end in order
# There is an example of each in words. What the members do is in
# Sessiond::Test::Crowd::Roles, how they are kept going in ...::Loop.
package Sessiond::Test::Crowd;
use v5.36;

use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use List::Util qw(sum0);
use POSIX      ();
use Storable   ();
use Sessiond::Test::Client       ();
use Sessiond::Test::Crowd::Loop  ();
use Sessiond::Test::Crowd::Roles ();
use Sessiond::Test::Net qw(now nap);

my %MIX = (idle => 40, storer => 16, one_shot_storer => 12, reader => 10, replaced_reader => 8, long_reader => 2,
    pipeliner => 12);
my @ROLES = sort keys %Sessiond::Test::Crowd::Roles::ROLES;
my $GLANCE = 'd (N4)' . @ROLES;      # when; for each role: members, settled, busy, cycles
my $run = 0;

# addr:        where (see Sessiond::Test::Client)
# connections: members (500); some hold a second connection at times
# processes:   that share them (4)
# mix:         { role => share }
# seed:        of all that is drawn by lot; told by describe() when something went wrong
# timeout:     seconds that no byte may come for (60)
sub new ($class, %arg) {
    my $self = bless {
        connections => 500, processes => 4, mix => \%MIX, timeout => 60, seed => int rand 1e9, %arg,
        dir => tempdir('sessiond-crowd-XXXXXX', TMPDIR => 1), owner => $$, run => ++$run . "x$$", pids => {}, died => [],
    }, $class;
    $self->{processes} = $self->{connections} if $self->{processes} > $self->{connections};
    return $self;
}

# The role of each member: all of them by their shares, as far as there are
# enough members, in an order that gives each process some of each.
sub _cast ($self) {
    my %share = map { $_ => $self->{mix}{$_} } grep { $self->{mix}{$_} } keys %{ $self->{mix} };
    for my $role (keys %share) { die "no role $role\n" if !$Sessiond::Test::Crowd::Roles::ROLES{$role} }
    my ($all, $n, %has) = (sum0(values %share), $self->{connections});
    my @cast;
    for my $i (1 .. $n) {
        # who lags behind most
        my ($next) = sort { ($has{$a} // 0) / $share{$a} <=> ($has{$b} // 0) / $share{$b} || $a cmp $b } keys %share;
        $has{$next}++;
        push @cast, $next;
    }
    return @cast;
}

sub start ($self) {
    my ($n, @members) = (0);
    for my $role ($self->_cast) {
        my $number = ++$n;
        push @{ $members[$number % $self->{processes}] }, {
            role => $role, id => $number, number => $number, key => "crowd-$self->{run}-$number",
            cycle => $Sessiond::Test::Crowd::Roles::ROLES{$role}, narrow => $Sessiond::Test::Crowd::Roles::NARROW{$role},
        };
    }
    Sessiond::Test::Crowd::Roles::prepare(map { $_->{role} } map { @$_ } @members);
    $self->{began} = now();
    for my $i (0 .. $#members) {
        my $pid = fork // die "fork: $!\n";
        if ($pid) {
            $self->{pids}{$pid} = $i;
            next;
        }
        # Leaves by _exit: the test's END blocks are not its own.
        my $over = 0;
        $SIG{TERM} = sub { $over = 1 };
        $SIG{INT}  = 'IGNORE';
        my $ok = eval { $self->_hold($i, $members[$i], \$over); 1 };
        $self->_save($i, { died => $@ =~ s/\s+/ /gr }) if !$ok;
        POSIX::_exit($ok ? 0 : 1);
    }
    return $self;
}

sub _save ($self, $i, $result) {
    Storable::store($result, "$self->{dir}/$i.new") && rename "$self->{dir}/$i.new", "$self->{dir}/$i.result";
    return;
}

# One process. It ends when its parent is gone, at once.
sub _hold ($self, $i, $members, $over) {
    srand $self->{seed} + 7919 * $i;
    my $client = Sessiond::Test::Client->new($self->{addr});
    my $loop   = Sessiond::Test::Crowd::Loop->new(
        to => [@$client{qw(family to)}], timeout => $self->{timeout}, members => $members);
    my $parent = $self->{owner};
    open my $glance, '+>:raw', "$self->{dir}/$i.glance" or die "glance: $!\n";
    my $result = $loop->run(sub { $$over }, sub ($members) {
        POSIX::_exit(1) if getppid != $parent;
        my %count = map { $_ => [0, 0, 0, 0] } @ROLES;
        for my $m (@$members) {
            my $of = $count{ $m->{role} };
            $of->[0]++;
            $of->[1]++ if !$m->{fresh};
            $of->[2]++ if $m->{role} eq 'idle' ? !$m->{fresh} : grep { $_->{due} || $_->{partial} } values %{ $m->{conns} };
            $of->[3] += $m->{cycles};
        }
        sysseek $glance, 0, 0;
        syswrite $glance, pack $GLANCE, now(), map { @$_ } @count{@ROLES};
    });
    $result->{cpu} = (times)[0] + (times)[1];
    $result->{cycles}{ $_->{role} } += $_->{cycles} for @$members;
    $self->_save($i, $result);
    return;
}

# What the processes said of themselves last: { role => [members, settled, busy,
# cycles] }, or nothing if one of them has not spoken after $since.
sub glance ($self, $since = 0) {
    my %sum;
    for my $i (0 .. $self->{processes} - 1) {
        open my $fh, '<:raw', "$self->{dir}/$i.glance" or return;
        my ($when, @counts) = unpack $GLANCE, do { local $/; readline($fh) // '' };
        return if !defined $when || $when < $since;
        for my $role (@ROLES) {
            my @of = splice @counts, 0, 4;
            $sum{$role}[$_] += $of[$_] for 0 .. 3;
        }
    }
    return \%sum;
}

# Until every member has a connection and a value, and of every role some are in
# the middle of something, or were a moment ago. Dies when that never comes.
sub wait_until_mixed ($self, $seconds = 60) {
    my ($from, $until) = (now(), now() + $seconds);
    my ($before, $is);
    while (1) {
        my $next = $self->glance($from);
        if ($next) {
            ($before, $is) = ($is // $next, $next);
            return $self if !grep { !_is_mixed($before->{$_}, $is->{$_}) } @ROLES;
        }
        die 'the crowd did not get going: ' . _in_words($is) . "\n" if now() > $until;
        die "a process of the crowd is gone\n" if $self->_reap;
        nap(0.02);
    }
}

sub _is_mixed ($before, $is) {
    my ($members, $settled, $busy, $cycles) = @$is;
    return $settled == $members && ($members == 0 || $busy > 0 || $cycles > $before->[3]);
}

sub _in_words ($glance) {
    return 'nothing heard' if !$glance;
    return join ', ', map { sprintf '%s: %d of %d settled, %d busy, %d cycles', $_, @{ $glance->{$_} }[1, 0, 2, 3] } @ROLES;
}

# How many cycles all members have finished.
sub cycles ($self) {
    my $is = $self->glance // return 0;
    return sum0(map { $_->[3] } values %$is);
}

# The processes that are gone by now, by their number; those that did not end in
# order are remembered.
sub _reap ($self) {
    my @gone;
    for my $pid (keys %{ $self->{pids} }) {
        next if waitpid($pid, POSIX::WNOHANG()) == 0;
        push @gone, delete $self->{pids}{$pid};
        push @{ $self->{died} }, "process $gone[-1] of the crowd: status $?" if $?;
    }
    return @gone;
}

# Every member finishes what it is at. Returns the summary.
sub stop ($self) {
    kill TERM => keys %{ $self->{pids} };
    my $until = now() + 2 * $self->{timeout} + 60;
    while (%{ $self->{pids} }) {
        $self->_reap;
        last if !%{ $self->{pids} };
        if (now() > $until) {
            kill KILL => keys %{ $self->{pids} };
            $until += 60;
        }
        nap(0.01);
    }
    $self->{seconds} //= now() - $self->{began};
    return $self->summary;
}

my %ENDED = map { $_ => 1 } qw(reset closed reset_idle closed_idle);

# found:     { kind => n }, see above; empty when all was well
# examples:  { kind => [sentences] }
# ended:     connections that ended by another hand than ours
# done:      { Hellos, GetHits, Writes, Stores, FetchHits => n }: requests that were
#            answered rightly, by the server's counters
# requests, cycles { role => n }, bytes_in, bytes_out, cpu (seconds), seconds
# p50, p99, slowest: how long the server let somebody wait, in seconds; those apart
#            who take little at a time, whose slowest is in narrow_slowest
# slowest_is, narrow_slowest_is: who that was
sub summary ($self) {
    return $self->{summary} if $self->{summary} || %{ $self->{pids} };
    my %sum = (found => {}, examples => {}, done => {}, cycles => {}, (map { $_ => 0 } qw(requests bytes_in bytes_out cpu)), seconds => $self->{seconds});
    my (%waits, %slowest);
    for my $i (0 .. $self->{processes} - 1) {
        my $path = "$self->{dir}/$i.result";
        my $is = -e $path ? Storable::retrieve($path) : { died => 'it left no result' };
        push @{ $self->{died} }, "process $i of the crowd: $is->{died}" if $is->{died};
        for my $of (qw(found done cycles)) { $sum{$of}{$_} += $is->{$of}{$_} for keys %{ $is->{$of} } }
        for my $kind (keys %{ $is->{examples} }) { push @{ $sum{examples}{$kind} }, @{ $is->{examples}{$kind} } }
        $sum{$_} += $is->{$_} // 0 for qw(requests bytes_in bytes_out cpu);
        $waits{$_} += $is->{waits}{asked}{$_} for keys %{ $is->{waits}{asked} };
        push @{ $slowest{$_} }, $is->{slowest}{$_} for keys %{ $is->{slowest} };
    }
    if (@{ $self->{died} }) {
        $sum{found}{died} = @{ $self->{died} };
        $sum{examples}{died} = $self->{died};
    }
    $sum{ended} = sum0(map { $sum{found}{$_} } grep { $ENDED{$_} } keys %{ $sum{found} });
    @sum{qw(slowest slowest_is)} = _slowest($slowest{asked});
    @sum{qw(narrow_slowest narrow_slowest_is)} = _slowest($slowest{narrow});
    @sum{qw(p50 p99)} = map { _percentile($_, \%waits) } 0.5, 0.99;
    return $self->{summary} = \%sum;
}

sub _slowest ($all) { return @{ (sort { $b->[0] <=> $a->[0] } @{ $all // [] }, [0, 'nobody'])[0] } }

# The upper bound of the class of waits that this share falls into.
sub _percentile ($share, $waits) {
    my $left = $share * sum0(values %$waits);
    for my $class (sort { $a <=> $b } keys %$waits) {
        $left -= $waits->{$class};
        return 1e-6 * 2**(($class + 1) / 16) if $left <= 0;
    }
    return 0;
}

# One line, and where something went wrong one more for each example.
sub describe ($self) {
    my $sum  = $self->summary;
    my $text = sprintf '%d connections for %.1f s, %d requests (%s), %.0f MB in, %.0f MB out; ended %d, other findings %d; '
        . 'waits p50 %.2f ms, p99 %.1f ms, slowest %.0f ms (%s), of those who take little %.0f ms; CPU %.1f s',
        $self->{connections}, $sum->{seconds}, $sum->{requests},
        join(', ', map { "$_ $sum->{done}{$_}" } sort keys %{ $sum->{done} }), $sum->{bytes_in} / 1e6, $sum->{bytes_out} / 1e6,
        $sum->{ended}, sum0(values %{ $sum->{found} }) - $sum->{ended}, (map { 1e3 * $sum->{$_} } qw(p50 p99 slowest)),
        $sum->{slowest_is}, 1e3 * $sum->{narrow_slowest}, $sum->{cpu};
    return $text if !%{ $sum->{found} };
    my @examples = map { my @of = @{ $sum->{examples}{$_} }; @of > 3 ? @of[0 .. 2] : @of } sort keys %{ $sum->{examples} };
    return join "\n  ", $text, "seed $self->{seed}, found: " . join(', ', map { "$_ $sum->{found}{$_}" } sort keys %{ $sum->{found} }),
        @examples;
}

sub DESTROY ($self) {
    return if $self->{owner} != $$;
    local ($?, $!);
    kill KILL => keys %{ $self->{pids} };
    waitpid $_, 0 for keys %{ $self->{pids} };
    remove_tree($self->{dir}, { error => \my $ignored });
    return;
}

1;
