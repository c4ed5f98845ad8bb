# SPDX-License-Identifier: Apache-2.0
#
# Sessiond::Test::Soak: what processes take, and whether it grows.
#
# "Own" memory is private memory; the segment, which is shared, is no part of
# it. Descriptors are counted without those of connections, which come and go,
# and only where /proc lets us look. A leak grows without an end, a cache comes
# to rest; so the first tenth of a stretch is left out, and the median of its
# first quarter is compared with that of its last.
package Sessiond::Test::Soak;
use v5.36;

use Exporter qw(import);
use Sessiond::Test::Timing qw(median);

our @EXPORT_OK = qw(sample flatness own_memory descriptors);

my $GROWN_KB  = 512;        # noise of a heap,
my $GROWN     = 0.05;       # or this share of it
my $GROWN_FDS = 4;

sub _status ($pid, $key) {
    open my $fh, '<', "/proc/$pid/status" or return undef;
    my ($value) = join('', readline $fh) =~ /^$key:\s+(\d+)/m;
    return $value;
}

# In KB; everybody may look at this. undef: there is no such process any more.
sub own_memory ($pid) { return _status($pid, 'RssAnon') }

# undef: we may not look.
sub descriptors ($pid) {
    opendir my $dir, "/proc/$pid/fd" or return undef;
    return scalar grep { /^\d+$/ } readdir $dir;
}

# In KB, shared with nobody in proportion, the segment left out. undef as above.
sub _pss ($pid) {
    open my $fh, '<', "/proc/$pid/smaps_rollup" or return undef;
    my ($kb) = join('', readline $fh) =~ /^Pss_Anon:\s+(\d+)/m;
    return $kb;
}

# One sample of httpd's parent and, by its status, of the session process.
sub sample ($parent, $status) {
    my $pid = $status->{SessiondPid} or return undef;
    my $own = own_memory($pid) // return undef;
    my ($fds, $pss) = (descriptors($pid), _pss($pid));
    return {
        pid => $pid, own => $own, pss => $pss, connections => $status->{SessiondConnectionsOpen},
        fds => defined $fds ? $fds - $status->{SessiondConnectionsOpen} : undef,
        parent_own => own_memory($parent) // 0, parent_fds => descriptors($parent),
        sessions => $status->{SessiondSessions}, used => $status->{SessiondMemoryUsed},
    };
}

# Slope of a line through the points, per hour.
sub _slope ($samples, $key) {
    my $n = @$samples;
    my ($x, $y, $xx, $xy) = (0, 0, 0, 0);
    for (@$samples) {
        my $at = $_->{at} / 3600;
        $x += $at; $y += $_->{$key}; $xx += $at * $at; $xy += $at * $_->{$key};
    }
    my $d = $n * $xx - $x * $x;
    return $d ? ($n * $xy - $x * $y) / $d : 0;
}

sub _compare ($name, $key, $unit, @samples) {
    @samples = grep { defined $_->{$key} } @samples;
    splice @samples, 0, int(@samples / 10);
    return () if @samples < 4;
    my $quarter = int(@samples / 4);
    my $first = median(map { $_->{$key} } @samples[0 .. $quarter - 1]);
    my $last  = median(map { $_->{$key} } @samples[-$quarter .. -1]);
    my $allowed = $unit eq 'KB' ? ($GROWN * $first > $GROWN_KB ? $GROWN * $first : $GROWN_KB) : $GROWN_FDS;
    my $text = sprintf '%s: %.0f, then %.0f %s (%d samples; a line through them: %+.0f an hour)', $name, $first, $last, $unit,
        scalar @samples, _slope(\@samples, $key);
    return { ok => $last - $first <= $allowed, text => $text };
}

# Verdicts, each { ok, text }: of the session process in each of the phases, in
# which it must have been the same one, and of the parent over all.
sub flatness ($samples, $phases) {
    my @verdicts;
    for my $phase (@$phases) {
        my @in = grep { $_->{phase} eq $phase } @$samples;
        my $pid = @in ? $in[-1]{pid} : 0;
        my @same = grep { $_->{pid} == $pid } @in;
        if (@same < 4) {
            push @verdicts, { ok => 0, text => "$phase: too few samples of one session process (" . @same . ')' };
            next;
        }
        push @verdicts, _compare("$phase, session process, private memory", 'own', 'KB', @same),
            _compare("$phase, session process, its share of memory", 'pss', 'KB', @same),
            _compare("$phase, session process, descriptors", 'fds', 'descriptors', @same);
    }
    return (@verdicts, _compare('parent, private memory', 'parent_own', 'KB', @$samples),
        _compare('parent, descriptors', 'parent_fds', 'descriptors', @$samples));
}

1;
