# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::ShortLives: a client that can run for hours. Its sessions are
# written once and live for seconds to minutes, so neither the store nor the
# ledger, which is in memory, grows; and each is looked at shortly before its
# end, some also after it. So each acknowledged session is asked for at least
# once, and expiry is tested all the time, too early and too late.
#
# What a client cannot know is the instant at which a store took effect; it lies
# between sending and the reply. A look that ended before the earliest possible
# end must find the session, one that began after the latest must not.
#
# Whatever is not as promised goes at once, with its time, into a file that the
# one who watches reads: a reset may be right at a restart and wrong ten seconds
# later.
package Sessiond::Test::ShortLives;
use v5.36;

use Exporter qw(import);
use Sessiond::Test::Client qw(ANY_VERSION);
use Sessiond::Test::Load   qw(make_value check_value);
use Sessiond::Test::Net    qw(now nap http_request);

our @EXPORT_OK = qw(session_client page_client read_events);

my @SIZES = ((60, 200, 400, 600, 600, 900, 1500, 2500, 6000) x 8, 30_000, 100_000);
my $TICK  = 0.02;               # both sides round to their clock's tick
my $AFTER = 0.2;                # share of sessions that are looked at after their end
my $OWN   = 10;                 # sessions of a client that it writes again and again

# Returns the code for Sessiond::Test::Load's `work`:
#   life:   SessiondExpiration
#   rate:   requests per second of each client
#   events: the file
# Odd clients use one connection for each request, even ones keep theirs.
sub session_client (%arg) {
    return sub ($client, $i, $result, $is_over) {
        my $self = bless { %arg, client => $client, i => $i, result => $result, n => 0, mine => [],
            extended => $i % 2 == 0, lives => [$arg{life}], queue => {}, over => [], own => {} }, __PACKAGE__;
        # S has one lifetime, W any.
        push @{ $self->{lives} }, map { 1 + int($arg{life} * $_) } 0.1, 0.3, 0.6 if $self->{extended};
        CORE::open $self->{file}, '>>', $arg{events} or die "events: $!\n";
        $self->{file}->autoflush(1);
        my $next = now() + rand 1;
        until ($is_over->()) {
            $self->_step;
            $next += 1 / $arg{rate};
            my $left = $next - now();
            if    ($left > 0)  { nap($left) }
            elsif ($left < -1) { $next = now() }
        }
        # What is alive is asked for once more.
        $self->_look($_) for map { @$_ } values %{ $self->{queue} };
    };
}

# Asks for a page of httpd again and again; the same file.
sub page_client (%arg) {
    return sub ($client, $i, $result, $is_over) {
        my $self = bless { result => $result, %arg }, __PACKAGE__;
        CORE::open $self->{file}, '>>', $arg{events} or die "events: $!\n";
        $self->{file}->autoflush(1);
        until ($is_over->()) {
            my ($status, $why) = http_request($arg{port}, '/ok.txt');
            if ($status == 200) { $result->{pages}++ }
            else                { $self->_event('page', $status || $why) }
            nap(1 / $arg{rate});
        }
    };
}

# The events after byte `at` of the file: ([time, kind, text]..., new at).
sub read_events ($path, $at) {
    CORE::open my $fh, '<', $path or return ([], $at);
    seek $fh, $at, 0;
    my @events;
    while (my $line = readline $fh) {
        last unless $line =~ /\n\z/;
        $at += length $line;
        push @events, [$1, $2, $3] if $line =~ /^(\S+) (\S+) (.*)$/;
    }
    return (\@events, $at);
}

# --- one step ----------------------------------------------------------------

sub _event ($self, $kind, $text) {
    $self->{result}{"event_$kind"}++;
    printf { $self->{file} } "%.3f %s %s\n", now(), $kind, $text =~ s/\s+/ /gr;
    nap(0.01);
    return;
}

sub _step ($self) {
    my $now = now();
    # What ends soon comes first: it must be seen before.
    for my $life (@{ $self->{lives} }) {
        my $queue = $self->{queue}{$life} // next;
        my $margin = 0.5 + 0.1 * $life;
        if (@$queue && $queue->[0]{earliest} - $margin < $now) {
            my $session = shift @$queue;
            $self->{result}{late}++ if $now > $session->{earliest};     # this machine has stalled
            $self->_look($session);
            push @{ $self->{over} }, $session if rand() < $AFTER;
            return;
        }
    }
    if (@{ $self->{over} } && $self->{over}[0]{latest} + $TICK < $now) {
        return $self->_look(shift @{ $self->{over} });
    }
    my $dice = rand;
    return $self->_store_new   if $dice < 0.3;
    return $self->_store_again if $dice < 0.5;
    my $from = $dice < 0.6 ? [values %{ $self->{own} }] : $self->{mine};
    return @$from ? $self->_look($from->[rand @$from]) : undef;
}

sub _store ($self, $key, $value, $life, $again = 0) {
    my $client = $self->{client};
    return $client->store($key, $value) unless $self->{extended};
    my ($outcome, $reply) = $client->write($key, $value, $life, $again ? ANY_VERSION : 0);
    return $outcome eq 'ok' ? ($reply->{type} eq 'K' ? 'ok' : "reply $reply->{type}")
        : $outcome =~ /^(?:no|partial|reset)$/ ? 'cut' : $outcome;
}

sub _store_new ($self) {
    my $n    = ++$self->{n};
    my $key  = "short-$$-$n";
    my $life = $self->{lives}[rand @{ $self->{lives} }];
    my $sent = now();
    my $outcome = $self->_store($key, make_value($key, $n, $SIZES[rand @SIZES]), $life);
    return $self->_event($outcome eq 'no' ? 'denied' : $outcome, "store $key") if $outcome ne 'ok';
    $self->{result}{stored}++;
    my $session = { key => $key, versions => [$n], earliest => $sent + $life, latest => now() + $life };
    push @{ $self->{queue}{$life} }, $session;
    push @{ $self->{mine} }, $session;
    shift @{ $self->{mine} } if @{ $self->{mine} } > 100;
    return;
}

# Where a store got no answer, the session may hold either version.
sub _store_again ($self) {
    my $key  = "own-$$-" . int rand $OWN;
    my $own  = $self->{own}{$key} //= { key => $key, versions => [], earliest => 0, latest => 0 };
    my $sent = now();
    push @{ $own->{versions} }, ++$own->{n};
    my $outcome = $self->_store($key, make_value($key, $own->{n}, 2000), $self->{life}, 1);
    $own->{latest} = now() + $self->{life};
    return $self->_event($outcome eq 'no' ? 'denied' : $outcome, "store again $key") if $outcome ne 'ok';
    $own->{versions} = [$own->{n}];
    $own->{earliest} = $sent + $self->{life};
    $self->{result}{stored_again}++;
    return;
}

sub _look ($self, $session) {
    my $key   = $session->{key};
    my $begin = now();
    my ($outcome, $value) = $self->_fetch($key);
    my $end = now();
    if ($outcome eq 'ok') {
        my $version = check_value($key, $value) // -1;
        return $self->_event('wrong', "$key: not what was stored") unless grep { $_ == $version } @{ $session->{versions} };
        return $self->_event('stale', sprintf '%s: served %.3f s after its end', $key, $begin - $session->{latest})
            if $begin > $session->{latest} + $TICK;
        $self->{result}{seen}++;
    }
    elsif ($outcome eq 'no') {
        return $self->_event('lost', sprintf '%s: gone %.3f s before its end', $key, $session->{earliest} - $end)
            if $end < $session->{earliest} - $TICK;
        $self->{result}{ $begin > $session->{latest} ? 'seen_expired' : 'at_its_end' }++;
    }
    else { return $self->_event($outcome, "fetch $key") }
    return;
}

sub _fetch ($self, $key) {
    return $self->{client}->fetch($key) unless $self->{extended};
    my ($outcome, $reply) = $self->{client}->get($key);
    return ($outcome =~ /^(?:no|partial|reset)$/ ? 'cut' : $outcome, '') if $outcome ne 'ok';
    return $reply->{type} eq 'V' ? ('ok', $reply->{data}) : ($reply->{type} eq 'N' ? 'no' : "reply $reply->{type}", '');
}

1;
