# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Halves: connections that are in the middle of something when a
# restart comes: idle after a hello, half-way through sending a value, half-way
# through reading one, in either protocol. finish() goes on with each and says
# how it came out: "ok" for each whose bytes were all right.
package Sessiond::Test::Halves;
use v5.36;

use Sessiond::Test::Client qw(frame_store frame_fetch frame_get frame_write);
use Sessiond::Test::Load   qw(make_value);

# A great value is more than the kernel's buffers take, so that its reply stalls.
use constant { VALUE => 50_000, GREAT => 8_000_000, BEGUN => 250_000, MANY => 9000 };

my %BEGIN = (
    idle => sub ($c, $key) { return $c->hello },
    head => sub ($c, $key) {
        my $frame = frame_write($key, make_value($key, 1, VALUE));
        $c->hello;
        $c->send(substr $frame, 0, 7, '');
        return $frame;
    },
    writer => sub ($c, $key) {
        my $frame = frame_write($key, make_value($key, 1, VALUE));
        $c->hello;
        $c->send(substr $frame, 0, VALUE / 2, '');
        return $frame;
    },
    storer => sub ($c, $key) {
        my $frame = frame_store($key, make_value($key, 1, VALUE));
        $c->open;
        $c->send(substr $frame, 0, VALUE / 2, '');
        return $frame;
    },
    # More requests than one read takes wait behind a reply that stalls.
    pipeliner => sub ($c, $key) {
        $c->hello;
        $c->send(frame_get($key) . frame_get('nobody') x MANY);
        return ($c->read_exactly(BEGUN))[1];
    },
    getter => sub ($c, $key) {
        $c->hello;
        $c->send(frame_get($key));
        return ($c->read_exactly(BEGUN))[1];
    },
    fetcher => sub ($c, $key) {
        $c->open;
        $c->send(frame_fetch($key));
        return ($c->read_exactly(BEGUN))[1];
    },
);

sub _same ($outcome, $is, $wanted) { return $outcome ne 'ok' ? $outcome : $is eq $wanted ? 'ok' : 'wrong' }

my %END = (
    idle => sub ($c, $key, $state) { return ($c->hello)[0] },
    storer => sub ($c, $key, $rest) {
        my $sent = $c->send($rest);
        return $sent eq 'ok' ? _same($c->read_all, "OK\n") : $sent;
    },
    getter => sub ($c, $key, $head) {
        my ($outcome, $rest) = $c->read_exactly(13 + GREAT - length $head);
        return _same($outcome, substr($head . ($rest // ''), 13), make_value($key, 1, GREAT));
    },
    pipeliner => sub ($c, $key, $head) {
        my ($outcome, $rest) = $c->read_exactly(13 + GREAT - length $head);
        my $same = _same($outcome, substr($head . ($rest // ''), 13), make_value($key, 1, GREAT));
        return $same eq 'ok' ? _same($c->read_exactly(5 * MANY), "N\0\0\0\0" x MANY) : $same;
    },
    fetcher => sub ($c, $key, $head) {
        my ($outcome, $rest) = $c->read_all;
        return _same($outcome, $head . $rest, make_value($key, 1, GREAT));
    },
);
$END{writer} = $END{head} = sub ($c, $key, $rest) {
    my $sent = $c->send($rest);
    return $sent if $sent ne 'ok';
    my ($outcome, $reply) = $c->read_reply;
    return $outcome if $outcome ne 'ok';
    return "reply $reply->{type}" if $reply->{type} ne 'K';
    ($outcome, $reply) = $c->get($key);
    return _same($outcome, $reply ? $reply->{data} // '' : '', make_value($key, 1, VALUE));
};

# count => of each kind; kinds => [...]; name => prefix of the keys
sub new ($class, $addr, %opt) {
    my $self = bless { addr => $addr, kinds => [sort keys %BEGIN], count => 1, name => 'half', %opt, held => [] }, $class;
    my $great = "$self->{name}-great";
    Sessiond::Test::Client->new($addr)->store($great, make_value($great, 1, GREAT)) if grep { /getter|fetcher|pipeliner/ } @{ $self->{kinds} };
    for my $n (1 .. $self->{count}) {
        for my $kind (@{ $self->{kinds} }) {
            my $reads = $kind =~ /getter|fetcher|pipeliner/;
            my $key = $reads ? $great : "$self->{name}-$kind-$n";
            my $c = Sessiond::Test::Client->new($addr, timeout => 60,
                $reads ? (receive => 16_384) : ());
            push @{ $self->{held} }, [$kind, $key, $c, $BEGIN{$kind}->($c, $key)];
        }
    }
    return $self;
}

# The value that is being read is replaced: its readers are owed the old one.
sub replace ($self) {
    Sessiond::Test::Client->new($self->{addr})->store("$self->{name}-great", 'replaced');
    return;
}

# { outcome => how many }, and which, as text
sub finish ($self) {
    my (%outcomes, @which);
    for my $held (@{ $self->{held} }) {
        my ($kind, $key, $c, $state) = @$held;
        my $outcome = $END{$kind}->($c, $key, $state);
        $outcomes{$outcome}++;
        push @which, "$kind $key: $outcome" if $outcome ne 'ok';
        $c->close;
    }
    Sessiond::Test::Client->new($self->{addr})->delete("$self->{name}-great");
    return (\%outcomes, join ', ', @which);
}

sub count ($self) { return scalar @{ $self->{held} } }

1;
