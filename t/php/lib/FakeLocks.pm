# SPDX-License-Identifier: Apache-2.0
#
# FakeLocks: the fake server's locks: who holds which key, who waits for it in
# which order, and until when. Connections are any references; the server tells
# when one has ended, and is told through a callback who was granted what. What
# is hard: a grant may meet a holder that gives up at once, so the next in the
# queue is found in a loop, not by recursion into the server.
package FakeLocks;
use v5.36;

use Sessiond::Test::Net qw(now);

# granted: sub ($connection, $key) for one that waited; refused: the same for
# one whose time is over; lease: seconds, none when undefined
sub new ($class, %arg) {
    return bless { holder => {}, since => {}, queue => {}, %arg }, $class;
}

sub holder ($self, $key) { return $self->{holder}{$key} }

# 1: granted; 0: it waits; undef: not granted, and it didn't want to wait.
sub ask ($self, $connection, $key, $wait_ms) {
    my $holder = $self->{holder}{$key};
    if (!$holder || $holder == $connection) {
        $self->_give($connection, $key);
        return 1;
    }
    if ($self->_lease_is_over($key)) {
        $self->_give($connection, $key);
        return 1;
    }
    return undef if !$wait_ms;
    push @{ $self->{queue}{$key} }, { connection => $connection, until => now() + $wait_ms / 1000 };
    return 0;
}

sub _give ($self, $connection, $key) {
    $self->{holder}{$key} = $connection;
    $self->{since}{$key}  = now();
    return;
}

sub _lease_is_over ($self, $key) {
    return defined $self->{lease} && now() > $self->{since}{$key} + $self->{lease};
}

# True when it was this connection's. Without a connection: whoever holds it,
# as at the end of a lease.
sub release ($self, $key, $connection = undef) {
    my $holder = $self->{holder}{$key} or return 0;
    return 0 if $connection && $holder != $connection;
    delete $self->{holder}{$key};
    if (my $next = shift @{ $self->{queue}{$key} // [] }) {
        $self->_give($next->{connection}, $key);
        $self->{granted}->($next->{connection}, $key);
    }
    return 1;
}

# The connection has ended or said hello anew.
sub forget ($self, $connection) {
    for my $queue (values %{ $self->{queue} }) {
        @$queue = grep { $_->{connection} != $connection } @$queue;
    }
    for my $key (keys %{ $self->{holder} }) {
        $self->release($key, $connection) if $self->{holder}{$key} == $connection;
    }
    return;
}

# A server that was killed has no locks any more; whoever waits waits in vain.
sub lose_all ($self) {
    @$self{qw(holder since queue)} = ({}, {}, {});
    return;
}

# Ends waits and leases; returns the seconds until there is something to do.
sub tick ($self) {
    my $soonest = 3600;
    for my $key (keys %{ $self->{queue} }) {
        my $queue = $self->{queue}{$key};
        while (my ($late) = grep { $_->{until} <= now() } @$queue) {
            @$queue = grep { $_ != $late } @$queue;
            $self->{refused}->($late->{connection}, $key);
        }
        $self->release($key) if @$queue && $self->_lease_is_over($key);
        for my $waiter (@$queue) {
            my $left = $waiter->{until} - now();
            $soonest = $left if $left < $soonest;
        }
        $soonest = 0.02 if @$queue && defined $self->{lease} && $soonest > 0.02;
    }
    return $soonest < 0.001 ? 0.001 : $soonest;
}

sub held ($self)    { return sort keys %{ $self->{holder} } }
sub waiting ($self) { my $n = 0; $n += @$_ for values %{ $self->{queue} }; return $n }

1;
